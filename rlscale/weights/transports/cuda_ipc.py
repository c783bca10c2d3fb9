"""To engines on the trainer's own GPUs: each rank's flat bucket stays where it is, and a CUDA IPC handle travels.

The first of the ranks that share an engine's GPUs passes all handles on; the engine maps the memory and copies from it.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import torch
import torch.distributed as dist
from torch import Tensor
from torch.multiprocessing.reductions import reduce_tensor

from rlscale.weights.bucket import Bucket
from rlscale.weights.transports import flat_bucket
from rlscale.weights.transports.receivers import TakesTensors, that_can
from rlscale.weights.transports.route import Route
from rlscale.weights.transports.transport import Receiver, TransferError

_DEVICE_ARGUMENT = 6
"""Which argument of torch's `rebuild_cuda_tensor` is the device; SGLang takes a GPU's UUID there as well."""


class IpcTransport:
    """Each rank's GPU memory to the engine on the same GPUs, by CUDA IPC handles.

    An engine of n ranks has the GPUs of n trainer ranks in a row; the first of them talks to it. Ranks whose engine
    gets nothing (only a restarted one does) have no engine to talk to.
    """

    def __init__(self, route: Route) -> None:
        self._route, self._first_ranks = route, route.first_ranks
        self._receiver: TakesTensors | None = None
        self._group: dist.ProcessGroup | None = None
        self._first = 0
        self._waiting: tuple[Tensor, str, int] | None = None

    def connect(self, receivers: Sequence[Receiver]) -> None:
        """See Transport."""
        self.close()
        world, sizes = dist.get_world_size(), self._route.ranks_of(len(receivers))
        firsts = self._first_ranks if self._first_ranks is not None else list(accumulate(sizes, initial=0))[:-1]
        spans = [range(first, first + size) for first, size in zip(firsts, sizes, strict=True)]
        if not spans or max(span.stop for span in spans) > world:
            ranks = "/".join(map(str, sorted(set(sizes))))
            raise TransferError(f"{len(receivers)} engines of {ranks} ranks do not fit the {world} trainer ranks")
        for receiver, span in zip(that_can(TakesTensors, receivers, "cuda_ipc"), spans, strict=True):
            group = dist.new_group(list(span), backend="gloo")  # collective: also where the rank is in none of them
            if dist.get_rank() in span:
                self._group, self._receiver, self._first = group, receiver, span.start

    def send(self, bucket: Bucket) -> None:
        """See Transport."""
        if self._receiver is None:
            return
        entries, size = flat_bucket.contents(bucket.named)
        flat = torch.empty(size, dtype=torch.uint8, device=bucket.named[0][1].device)
        flat_bucket.fill(flat, bucket.named, entries)
        torch.cuda.current_stream().synchronize()
        rebuild, arguments = reduce_tensor(flat)
        uuid = str(torch.cuda.get_device_properties(flat.device).uuid)
        arguments = (*arguments[:_DEVICE_ARGUMENT], uuid, *arguments[_DEVICE_ARGUMENT + 1 :])
        self._pass_on(last=False)
        self._waiting = flat, flat_bucket.dump(flat_bucket.Rebuild(rebuild, arguments), entries), bucket.version

    def commit(self, version: int) -> None:
        """See Transport."""
        self._pass_on(last=True)

    def close(self) -> None:
        """See Transport."""
        self._waiting = None
        if self._group is not None:
            dist.destroy_process_group(self._group)
        self._group = self._receiver = None

    def _pass_on(self, last: bool) -> None:
        """Hand the waiting bucket over; the memory is kept until the engine has answered."""
        if self._waiting is None:
            return
        assert self._group is not None
        assert self._receiver is not None
        _, serialized, version = self._waiting
        talks = dist.get_rank() == self._first
        every: list[str] | None = [""] * self._group.size() if talks else None
        dist.gather_object(serialized, every, dst=self._first, group=self._group)
        failure: list[str | None] = [None]
        if every is not None:
            try:
                self._receiver.receive_tensors(every, flat_bucket.LOAD_FORMAT, version, last)
            except Exception as error:  # told to the other ranks, raised by all
                failure = [str(error)]
        dist.broadcast_object_list(failure, src=self._first, group=self._group)
        self._waiting = None
        if failure[0] is not None:
            raise TransferError(f"{self._receiver.url} did not take the weights: {failure[0]}")

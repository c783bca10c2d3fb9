"""To engines on the trainer's own machine or GPUs: the engine maps the trainer's memory and copies from it.

On the CPU rank 0 puts each bucket into shared memory and tells every engine. On CUDA each rank has a flat bucket on its
GPU and hands out an IPC handle to it; the first of the ranks that share an engine's GPUs passes all handles on.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait

import torch
import torch.distributed as dist
from torch import Tensor
from torch.multiprocessing.reductions import reduce_tensor

from rlscale.weights import flat_bucket
from rlscale.weights.source import Bucket
from rlscale.weights.transport import Receiver, TransferError

_DEVICE_ARGUMENT = 6
"""Which argument of torch's `rebuild_cuda_tensor` is the device; SGLang takes a GPU's UUID there as well."""


class SharedMemoryTransport:
    """Rank 0 to every engine of the machine, one bucket ahead of them: while they load one the next is gathered."""

    def __init__(self, timeout_s: float, ranks_per_receiver: int) -> None:
        self._timeout, self._ranks = timeout_s, ranks_per_receiver
        self._receivers: list[Receiver] = []
        self._threads: ThreadPoolExecutor | None = None
        self._waiting: tuple[flat_bucket.SharedBytes, str, int] | None = None
        self._loading: tuple[flat_bucket.SharedBytes, list[Future[None]]] | None = None

    def connect(self, receivers: Sequence[Receiver]) -> None:
        """See Transport."""
        self.close()
        if dist.get_rank() != 0:
            return
        flat_bucket.remove_leftovers()
        self._receivers = list(receivers)
        self._threads = ThreadPoolExecutor(max(len(receivers), 1), "weights")

    def send(self, bucket: Bucket) -> None:
        """See Transport. Which bucket is the last is known only afterwards, so each is passed on with the next."""
        if not self._receivers:
            return
        entries, size = flat_bucket.contents(bucket.named)
        shared = flat_bucket.SharedBytes(size)
        flat_bucket.fill(shared.flat, bucket.named, entries)
        self._pass_on(last=False)
        self._waiting = shared, flat_bucket.dump(shared.reader(), entries), bucket.version

    def commit(self, version: int) -> None:
        """See Transport."""
        self._pass_on(last=True)
        self._finish()

    def close(self) -> None:
        """See Transport."""
        for pending in (self._waiting, self._loading):
            if pending is not None:
                pending[0].remove()
        self._waiting = self._loading = None
        if self._threads is not None:
            self._threads.shutdown(wait=False)
        self._threads, self._receivers = None, []

    def _pass_on(self, last: bool) -> None:
        self._finish()
        if self._waiting is None:
            return
        (shared, serialized, version), self._waiting = self._waiting, None
        assert self._threads is not None
        calls = [
            self._threads.submit(
                receiver.receive_tensors, [serialized] * self._ranks, flat_bucket.LOAD_FORMAT, version, last
            )
            for receiver in self._receivers
        ]
        self._loading = shared, calls

    def _finish(self) -> None:
        if self._loading is None:
            return
        (shared, calls), self._loading = self._loading, None
        try:
            wait_for(calls, self._receivers, self._timeout)
        finally:
            shared.remove()


class IpcTransport:
    """Each rank's GPU memory to the engine on the same GPUs, by CUDA IPC handles.

    An engine of n ranks has the GPUs of n trainer ranks in a row; the first of them talks to it. Ranks whose engine
    gets nothing (only a restarted one does) talk to nobody.
    """

    def __init__(self, ranks_per_receiver: int, first_ranks: Sequence[int] | None = None) -> None:
        """`first_ranks`: each receiver's first trainer rank; by default the receivers fill the ranks from 0."""
        self._size, self._first_ranks = ranks_per_receiver, first_ranks
        self._receiver: Receiver | None = None
        self._group: dist.ProcessGroup | None = None
        self._first = 0
        self._waiting: tuple[Tensor, str, int] | None = None

    def connect(self, receivers: Sequence[Receiver]) -> None:
        """See Transport."""
        self.close()
        world, size = dist.get_world_size(), self._size
        firsts = self._first_ranks if self._first_ranks is not None else range(0, size * len(receivers), size)
        spans = [range(first, first + size) for first in firsts]
        if not spans or max(span.stop for span in spans) > world:
            raise TransferError(f"{len(receivers)} engines of {size} ranks do not fit the {world} trainer ranks")
        for receiver, span in zip(receivers, spans, strict=True):
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


def wait_for(calls: Sequence[Future[None]], receivers: Sequence[Receiver], timeout_s: float) -> None:
    """Wait for one call per receiver. TransferError naming the first one that failed or was too slow."""
    done, _ = wait(calls, timeout_s)
    for call, receiver in zip(calls, receivers, strict=True):
        if call not in done:
            raise TransferError(f"{receiver.url} did not answer within weights.timeout_s={timeout_s:g}")
        error = call.exception()
        if error is not None:
            raise TransferError(f"{receiver.url} did not take the weights: {error}") from error

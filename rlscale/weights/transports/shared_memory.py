"""To engines on the trainer's own machine without GPUs: rank 0 puts each bucket into shared memory and tells them all.

An engine maps the memory and copies from it.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import torch.distributed as dist

from rlscale.platform.sglang_verified_updates import CHECKSUM, FILE
from rlscale.weights.bucket import Bucket
from rlscale.weights.transports import flat_bucket
from rlscale.weights.transports.receivers import TakesTensors, that_can
from rlscale.weights.transports.route import Route
from rlscale.weights.transports.transport import Receiver, wait_for


class SharedMemoryTransport:
    """Rank 0 to every engine of the machine, one bucket ahead of them: while they load one the next is gathered.

    The files, three buckets, stay until `close` and take the next version too: fresh pages of shared memory cost three
    times what copying into them does.
    """

    def __init__(self, route: Route) -> None:
        self._route, self._timeout = route, route.timeout_s
        self._receivers: list[TakesTensors] = []
        self._threads: ThreadPoolExecutor | None = None
        self._waiting: tuple[flat_bucket.SharedBytes, str, int] | None = None
        self._loading: tuple[flat_bucket.SharedBytes, list[Future[None]]] | None = None
        self._spare: list[flat_bucket.SharedBytes] = []

    def connect(self, receivers: Sequence[Receiver]) -> None:
        """See Transport."""
        spare, self._spare = self._spare, []
        self.close()
        self._spare = spare  # of use to whichever engines come
        if dist.get_rank() != 0:
            return
        flat_bucket.remove_leftovers()
        self._receivers = that_can(TakesTensors, receivers, "shared_memory")
        self._threads = ThreadPoolExecutor(max(len(receivers), 1), "weights")

    def send(self, bucket: Bucket) -> None:
        """See Transport. Which bucket is the last is known only afterwards, so each is passed on with the next."""
        if not self._receivers:
            return
        entries, size = flat_bucket.contents(bucket.named)
        shared = self._room_for(size)
        try:
            checksum = flat_bucket.fill_summed(shared.flat, bucket.named, entries)
            self._pass_on(last=False)
        except BaseException:  # an engine did not take an earlier bucket: nobody will be told of this one
            shared.remove()
            raise
        told = {CHECKSUM: checksum, FILE: str(shared.path)}
        serialized = flat_bucket.dump(shared.reader(), entries, **told)
        self._waiting = shared, serialized, bucket.version

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
        self._drop_spare()
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
            self._threads.submit(receiver.receive_tensors, [serialized] * ranks, flat_bucket.LOAD_FORMAT, version, last)
            for receiver, ranks in zip(self._receivers, self._route.ranks_of(len(self._receivers)), strict=True)
        ]
        self._loading = shared, calls

    def _finish(self) -> None:
        if self._loading is None:
            return
        (shared, calls), self._loading = self._loading, None
        try:
            wait_for(calls, self._receivers, self._timeout)
        except BaseException:  # somebody may still be reading it
            shared.remove()
            raise
        self._spare.append(shared)

    def _room_for(self, size: int) -> flat_bucket.SharedBytes:
        """A file that every engine has read, if it is large enough, else a new one. OSError when there is no room."""
        for shared in self._spare:
            if shared.flat.numel() >= size:
                self._spare.remove(shared)
                return shared
        self._drop_spare()  # all too small
        return flat_bucket.SharedBytes(size)

    def _drop_spare(self) -> None:
        for shared in self._spare:
            shared.remove()
        self._spare = []

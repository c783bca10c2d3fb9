"""To engines that have devices of their own: rank 0 broadcasts over a process group that it forms with their ranks.

An engine that fails never joins in the broadcast, and a broadcast that one member does not join never ends. So calls to
engines and broadcasts run in threads, the first failure of either ends the transfer at once, and the group is given up:
the next `connect` forms a fresh one under a new name.
"""

from __future__ import annotations

import contextlib
import datetime
import socket
import time
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from itertools import accumulate
from threading import Thread

import torch.distributed as dist
from torch.distributed.distributed_c10d import Backend, _new_process_group_helper, _world

from rlscale.config.schema.cluster_config import LOOPBACK_HOSTS
from rlscale.platform.ports import free_port
from rlscale.platform.rendezvous import store_at
from rlscale.weights.bucket import Bucket
from rlscale.weights.transports.receivers import TakesBroadcasts, that_can
from rlscale.weights.transports.route import Route
from rlscale.weights.transports.transport import Receiver, TransferError


class BroadcastTransport:
    """Rank 0 to all engines at once."""

    def __init__(self, route: Route) -> None:
        self._backend = "nccl" if route.device == "cuda" else "gloo"
        self._route, self._timeout = route, route.timeout_s
        self._receivers: list[TakesBroadcasts] = []
        self._group: dist.ProcessGroup | None = None
        self._name = ""
        self._waiting: Bucket | None = None

    def connect(self, receivers: Sequence[Receiver]) -> None:
        """See Transport. TransferError when the group cannot be formed in time."""
        self.close()
        if dist.get_rank() != 0 or not receivers:
            return
        self._receivers = that_can(TakesBroadcasts, receivers, "broadcast")
        self._name = f"rlscale-{uuid.uuid4().hex[:12]}"
        address, port = _own_address([receiver.url for receiver in receivers])
        first_of_each = list(accumulate(self._route.ranks_of(len(receivers)), initial=1))
        world_size = first_of_each.pop()
        joins: list[Callable[[], None]] = [
            lambda receiver=receiver, offset=offset: receiver.open_group(  # type: ignore[misc]  # mypy: defaults
                address, port, offset, world_size, self._name, self._backend
            )
            for receiver, offset in zip(self._receivers, first_of_each, strict=True)
        ]

        def join() -> None:
            self._group = join_group(address, port, 0, world_size, self._name, self._backend, self._timeout)

        self._together([*joins, join], "form a process group with the engines")

    def send(self, bucket: Bucket) -> None:
        """See Transport. Which bucket is the last is known only afterwards, so each goes out with the next."""
        if self._group is None:
            return
        self._pass_on(last=False)
        # The tensors may be the parameters themselves: they must not change before they are sent.
        self._waiting = bucket

    def commit(self, version: int) -> None:
        """See Transport."""
        self._pass_on(last=True)

    def close(self) -> None:
        """See Transport. A group in which something failed is abandoned: leaving it would wait for the others."""
        group, self._group, self._waiting = self._group, None, None
        if group is not None:
            leaving: list[Callable[[], None]] = [
                lambda receiver=receiver: receiver.close_group(self._name)  # type: ignore[misc]  # mypy: defaults
                for receiver in self._receivers
            ]
            with contextlib.suppress(TransferError):  # an engine that is gone has left
                self._together(leaving, "leave the process group")
            dist.destroy_process_group(group)
        self._receivers = []

    def _pass_on(self, last: bool) -> None:
        bucket, self._waiting = self._waiting, None
        group = self._group
        if bucket is None or group is None:
            return
        names = [name for name, _ in bucket.named]
        dtypes = [str(tensor.dtype).removeprefix("torch.") for _, tensor in bucket.named]
        shapes = [list(tensor.shape) for _, tensor in bucket.named]
        calls: list[Callable[[], None]] = [
            lambda receiver=receiver: receiver.receive_broadcast(  # type: ignore[misc]  # mypy: defaults
                names, dtypes, shapes, self._name, bucket.version, last
            )
            for receiver in self._receivers
        ]

        def broadcast() -> None:
            tensors = [tensor.contiguous() for _, tensor in bucket.named]
            for work in [dist.broadcast(tensor, src=0, group=group, async_op=True) for tensor in tensors]:
                work.wait()

        try:
            self._together([*calls, broadcast], "take the weights")
        except TransferError:
            self._group = None
            raise

    def _together(self, calls: Sequence[Callable[[], None]], what: str) -> None:
        """Run calls at the same time; TransferError at the first that fails or when the time is up."""
        futures = [_in_background(call) for call in calls]
        names = [receiver.url for receiver in self._receivers] + ["the trainer"]
        deadline = time.monotonic() + self._timeout
        pending = set(futures)
        while pending:
            done, pending = wait(pending, max(deadline - time.monotonic(), 0.0), FIRST_COMPLETED)
            for name, future in zip(names, futures, strict=False):
                error = future.exception() if future in done else None
                if error is not None:
                    raise TransferError(f"{name} could not {what}: {error}") from error
            if not done:
                late = [name for name, future in zip(names, futures, strict=False) if future in pending]
                raise TransferError(f"{late[0]} could not {what} within weights.timeout_s={self._timeout:g}")


def join_group(
    address: str, port: int, rank: int, world_size: int, name: str, backend: str, timeout_s: float
) -> dist.ProcessGroup:
    """Form a process group beside the default one with processes of other programs, as SGLang's servers do.

    torch has no public call for a group outside the default one's world; this is what its own `new_group` ends in.
    Rank 0 listens at address:port.
    """
    timeout = datetime.timedelta(seconds=timeout_s)
    store = store_at(address, port, rank, world_size, timeout)
    group, _ = _new_process_group_helper(
        world_size,
        rank,
        [],
        Backend(backend),
        dist.PrefixStore(name, store),
        group_name=name,  # type: ignore[arg-type]  # a NewType of str
        timeout=timeout,
    )
    _world.pg_group_ranks[group] = {number: number for number in range(world_size)}
    return group


def _in_background(call: Callable[[], None]) -> Future[None]:
    """Run a call in a thread that does not keep the process alive: one that never ends must not either."""
    future: Future[None] = Future()

    def run() -> None:
        try:
            call()
            future.set_result(None)
        except BaseException as error:
            future.set_exception(error)

    Thread(target=run, name="weights", daemon=True).start()
    return future


def _own_address(urls: Sequence[str]) -> tuple[str, int]:
    """An address of this machine that the engines can reach, and a free port of it."""
    hosts = [url.split("://")[-1].split("/")[0].rpartition(":")[0] for url in urls]
    if all(host in LOOPBACK_HOSTS for host in hosts):
        address = "127.0.0.1"
    else:
        remote = next(host for host in hosts if host not in LOOPBACK_HOSTS)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect((remote, 9))  # sends nothing; asks which of our addresses leads there
            address = probe.getsockname()[0]
    return address, free_port(address)

"""What a transport is: it carries buckets of weights from the trainer to the engines. Neither side knows the other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from rlscale.config.errors import UserError
from rlscale.weights.source import Bucket


class TransferError(UserError):
    """A transfer did not reach every engine; what the engines hold is undefined until all weights were sent again."""


class Receiver(Protocol):
    """One engine as a transport sees it. Every call blocks until the engine has done it, and raises when it has not."""

    url: str
    """Where the engine is; for messages."""

    def receive_tensors(self, serialized: list[str], load_format: str | None, version: int, last: bool) -> None:
        """Load a bucket: base64 of a pickle for each of the engine's tensor-parallel ranks; `last` ends the version."""

    def open_group(self, address: str, port: int, rank_offset: int, world_size: int, group: str, backend: str) -> None:
        """Join a process group as `rank_offset` and following; the trainer is its rank 0, at address:port."""

    def receive_broadcast(
        self,
        names: Sequence[str],
        dtypes: Sequence[str],
        shapes: Sequence[Sequence[int]],
        group: str,
        version: int,
        last: bool,
    ) -> None:
        """Receive and load tensors that the trainer broadcasts in this order."""

    def close_group(self, group: str) -> None:
        """Leave a process group."""


class Transport(Protocol):
    """Carries the weights of one version at a time. On trainer ranks that talk to nobody, calls do next to nothing."""

    def connect(self, receivers: Sequence[Receiver]) -> None:
        """Say who gets the weights; replaces what was said before. Collective over the trainer's ranks."""

    def send(self, bucket: Bucket) -> None:
        """Carry a bucket. It may be underway when this returns: its tensors must not change before `commit` returns."""

    def commit(self, version: int) -> None:
        """Wait until every receiver has loaded everything that was sent, as weight version `version`.

        TransferError if one has not.
        """

    def close(self) -> None:
        """Give up connections."""


def build_transport(
    kind: str,
    device_type: str,
    timeout_s: float,
    ranks_per_receiver: int = 1,
    first_ranks: Sequence[int] | None = None,
) -> Transport:
    """A transport by name: `tensor` (engines on the trainer's devices) or `broadcast` (engines elsewhere).

    `ranks_per_receiver`: tensor-parallel ranks of an engine. `first_ranks`: see IpcTransport; others do not read it.
    """
    from rlscale.weights.broadcast_transport import BroadcastTransport
    from rlscale.weights.tensor_transport import IpcTransport, SharedMemoryTransport

    if kind == "broadcast":
        return BroadcastTransport(device_type, timeout_s, ranks_per_receiver)
    if kind == "tensor":
        if device_type == "cuda":
            return IpcTransport(ranks_per_receiver, first_ranks)
        return SharedMemoryTransport(timeout_s, ranks_per_receiver)
    raise ValueError(f"unknown transport {kind!r}; there are tensor and broadcast")

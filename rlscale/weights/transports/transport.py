"""What a transport is: it carries buckets of weights from the trainer to the engines. Neither side knows the other."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, wait
from typing import Protocol

from rlscale.config.errors import UserError
from rlscale.weights.bucket import Bucket


class TransferError(UserError):
    """A transfer did not reach every engine; what the engines hold is undefined until all weights were sent again."""


class Receiver(Protocol):
    """One engine as a transport sees it. Every call blocks until the engine has done it, and raises if it fails."""

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
    """Carries the weights of one version at a time. On trainer ranks that serve no engine, calls do next to nothing."""

    def connect(self, receivers: Sequence[Receiver]) -> None:
        """Say who gets the weights; replaces what was said before. Collective over the trainer's ranks."""

    def send(self, bucket: Bucket) -> None:
        """Carry a bucket. It may be underway when this returns: its tensors must not change before `commit` returns."""

    def commit(self, version: int) -> None:
        """Wait until every receiver has loaded everything that was sent, as weight version `version`.

        TransferError if one did not.
        """

    def close(self) -> None:
        """Give up connections."""


def wait_for(calls: Sequence[Future[None]], receivers: Sequence[Receiver], timeout_s: float) -> None:
    """Wait for one call per receiver. TransferError naming the first one that failed or was too slow."""
    done, _ = wait(calls, timeout_s)
    for call, receiver in zip(calls, receivers, strict=True):
        if call not in done:
            raise TransferError(f"{receiver.url} did not answer within weights.timeout_s={timeout_s:g}")
        error = call.exception()
        if error is not None:
            raise TransferError(f"{receiver.url} did not take the weights: {error}") from error

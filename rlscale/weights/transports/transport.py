"""What a transport is: it carries buckets of weights from the trainer to the engines. Neither side knows the other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Protocol, TypeVar

from rlscale.config.errors import UserError
from rlscale.weights.bucket import Bucket


class TransferError(UserError):
    """A transfer did not reach every engine; what the engines hold is undefined until all weights were sent again."""


class Receiver(Protocol):
    """One engine. What else it must be able to do is up to the transport, see `receivers.py`."""

    url: str
    """Where the engine is; for messages."""


Able = TypeVar("Able", bound=Receiver)


class Transport(Protocol):
    """Carries the weights of one version at a time. On trainer ranks that serve no engine, calls do next to nothing."""

    def connect(self, receivers: Sequence[Receiver]) -> None:
        """Say who gets the weights; replaces what was said before. Collective over the trainer's ranks.

        TransferError for one that cannot take them in this way.
        """

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


def tell(receivers: Sequence[Able], call: Callable[[Able], None], timeout_s: float) -> None:
    """Call every receiver at the same time and wait for all. TransferError naming one that failed or was too slow."""
    threads = ThreadPoolExecutor(max(len(receivers), 1), "weights")
    try:
        wait_for([threads.submit(call, receiver) for receiver in receivers], receivers, timeout_s)
    finally:
        threads.shutdown(wait=False)

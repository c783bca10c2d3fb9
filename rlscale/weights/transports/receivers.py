"""What transports need of an engine, a protocol for each; `rlscale.serve.receiver.EngineReceiver` can do all of it.

Every call blocks until the engine has done it, and raises if it fails.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, TypeVar, cast, runtime_checkable

from rlscale.platform.tensor_sum import TensorSum
from rlscale.weights.transports.transport import Receiver, TransferError

Need = TypeVar("Need", bound=Receiver)


@runtime_checkable
class TakesTensors(Receiver, Protocol):
    """An engine that loads buckets which are handed to it."""

    def receive_tensors(self, serialized: list[str], load_format: str | None, version: int, last: bool) -> None:
        """Load a bucket: base64 of a pickle for each of the engine's tensor-parallel ranks; `last` ends the version."""


@runtime_checkable
class TakesBroadcasts(Receiver, Protocol):
    """An engine that joins a process group and receives there."""

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


@runtime_checkable
class TakesFolders(Receiver, Protocol):
    """An engine that loads a Hugging Face folder which it can read."""

    def receive_folder(self, folder: str, version: int) -> None:
        """Load all weights of a folder; they are the engine's version `version` from then on."""


@runtime_checkable
class TakesDeltas(Receiver, Protocol):
    """An engine that keeps a copy of the folder it started from, and patches deltas into that."""

    def receive_deltas(self, folder: str, version: int) -> None:
        """Bring the copy to `version` by the deltas in a folder, verify all of it, and load it."""


@runtime_checkable
class TellsSums(Receiver, Protocol):
    """An engine that says which tensors it holds."""

    def weight_sums(self) -> dict[str, TensorSum]:
        """Of every tensor by its name in a Hugging Face folder. What it keeps as one: as one and in parts."""


@runtime_checkable
class TakesAdapters(Receiver, Protocol):
    """An engine that computes with an adapter beside its own weights."""

    def receive_adapter(self, config: Mapping[str, Any], serialized: list[str], version: int) -> None:
        """Load an adapter in the place of the one before: peft's config, a flat bucket for each of its ranks."""


@runtime_checkable
class TellsLoading(Receiver, Protocol):
    """An engine that says how long it loaded. No transport needs it."""

    loading_s: float
    """Seconds of the last version in which it loaded what was sent, its answers included."""


def that_can(
    need: Callable[..., Need], receivers: Sequence[Receiver], transport: str, key: str = "weights/transport"
) -> list[Need]:
    """The receivers, as what a transport needs. TransferError naming the first that lacks it, and what it lacks.

    `key`: what the transport was chosen by.
    """
    protocol = cast(type, need)
    for receiver in receivers:
        if not isinstance(receiver, protocol):
            lacking = [name for name in vars(protocol) if not name.startswith("_") and not hasattr(receiver, name)]
            raise TransferError(
                f"{receiver.url}: its {type(receiver).__name__} has no {', '.join(lacking)}, which "
                f"{key}={transport} needs; choose another value"
            )
    return cast("list[Need]", list(receivers))

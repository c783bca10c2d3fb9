"""The transport that a configuration asks for."""

from __future__ import annotations

from collections.abc import Sequence

from rlscale.weights.transports.broadcast import BroadcastTransport
from rlscale.weights.transports.cuda_ipc import IpcTransport
from rlscale.weights.transports.shared_memory import SharedMemoryTransport
from rlscale.weights.transports.transport import Transport


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
    if kind == "broadcast":
        return BroadcastTransport(device_type, timeout_s, ranks_per_receiver)
    if kind == "tensor":
        if device_type == "cuda":
            return IpcTransport(ranks_per_receiver, first_ranks)
        return SharedMemoryTransport(timeout_s, ranks_per_receiver)
    raise ValueError(f"unknown transport {kind!r}; there are tensor and broadcast")

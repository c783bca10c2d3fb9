"""The shipped choice of a transport, by where the engines are."""

from __future__ import annotations

from rlscale.weights.transports.broadcast import BroadcastTransport
from rlscale.weights.transports.cuda_ipc import IpcTransport
from rlscale.weights.transports.route import Route
from rlscale.weights.transports.shared_memory import SharedMemoryTransport
from rlscale.weights.transports.transport import Transport


def auto(route: Route) -> Transport:
    """By broadcast to engines that have devices of their own; else by CUDA IPC, or through shared memory on a CPU."""
    if not route.shares_devices:
        return BroadcastTransport(route)
    return IpcTransport(route) if route.device == "cuda" else SharedMemoryTransport(route)

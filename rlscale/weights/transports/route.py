"""Where a transport goes: what it must know of the engines and of the ranks that send."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Route:
    """The way from the trainer's ranks to the engines, alike on every rank. Plain data: it travels to the ranks."""

    device: str = "cpu"
    """Device type of the trainer's ranks and of the engines: cpu or cuda."""
    shares_devices: bool = True
    """Whether the engines are on the trainer's own devices (colocated)."""
    ranks_per_engine: int = 1
    """Tensor-parallel ranks of an engine."""
    first_ranks: tuple[int, ...] | None = None
    """For each engine the first of the trainer ranks on its GPUs, where they share them; None: they follow one another
    from rank 0."""
    timeout_s: float = 300.0
    """Seconds that an engine may take for one call."""
    keep: str | None = None
    """How engines pause the requests that they keep while they take weights (see Receiver.pause); None: they have none
    then."""

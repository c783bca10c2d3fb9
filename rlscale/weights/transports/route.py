"""Where a transport goes: what it must know of the engines and of the ranks that send."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rlscale.config.errors import UserError


@dataclass(frozen=True)
class Route:
    """The way from the trainer's ranks to the engines, alike on every rank. Plain data: it travels to the ranks."""

    device: str = "cpu"
    """Device type of the trainer's ranks and of the engines: cpu or cuda."""
    shares_devices: bool = True
    """Whether the engines are on the trainer's own devices (colocated)."""
    ranks: tuple[int, ...] | int = 1
    """Tensor-parallel ranks of each engine; one number: every engine has so many, however many engines there are."""
    first_ranks: tuple[int, ...] | None = None
    """For each engine the first of the trainer ranks on its GPUs, where they share them; None: they follow one another
    from rank 0."""
    timeout_s: float = 300.0
    """Seconds that an engine may take for one call."""
    keep: str | None = None
    """How engines pause the requests that they keep while they take weights (see Receiver.pause); None: they have none
    then."""
    to_draft: bool = True
    """Whether weights are for an engine's draft, too, where it has one: a layer of the model's own that is trained."""
    started_from: str | None = None
    """The folder that the engines were started from, on the machine of rank 0; None where nobody knows."""
    folder: str | None = None
    """Folder of the run for weights on their way, for transports by files; its last part is new in every process."""

    def ranks_of(self, engines: int) -> tuple[int, ...]:
        """Tensor-parallel ranks of each of so many engines. ValueError where the route is for another number."""
        ranks = (self.ranks,) * engines if isinstance(self.ranks, int) else self.ranks
        if len(ranks) != engines:
            raise ValueError(f"a route to {len(ranks)} engines, and {engines} receivers")
        return ranks

    def exchange(self, folder: str | None, folder_on_engines: str | None) -> tuple[Path, Path]:
        """Where files for the engines are written, and under which path engines see that.

        The run's own place is used, below `folder` where one is given. UserError where there is neither.
        """
        if self.folder is None and folder is None:
            raise UserError("weights.transport.folder: no run says where files for engines go; name a folder")
        own = Path(self.folder) if self.folder is not None else Path("rlscale-weights")
        written = own if folder is None else Path(folder).absolute() / own.name
        return written, written if folder_on_engines is None else Path(folder_on_engines) / own.name

"""What all parts of a run share: machines, the calls to them, folders, and who hears of it; and parts made of that."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rlscale.config.schema import Config
from rlscale.rollout.rollout_spec import RolloutSpec
from rlscale.run.processes.forks import Forks
from rlscale.run.processes.placement import Layout, Slot
from rlscale.run.processes.remote_calls import Calls
from rlscale.run.sides.engines import Engines
from rlscale.run.sides.group_source import Rollout
from rlscale.run.sides.rank_places import RankPlaces
from rlscale.run.sides.recovery import Recoveries


@dataclass(frozen=True)
class RunContext:
    """What the parts of a run share. That of a further fleet differs in its engines, logs and notes."""

    layout: Layout
    machines: list[str]
    """Ray's ids. Ranks that come back keep the list up to date, and who looks for a machine sees it there."""
    calls: Calls
    logs: Path
    scratch: Path
    note: Callable[[str], None]
    forks: Forks
    """What processes are forked from."""

    def for_fleet(self, name: str, logs: Path, engines: Sequence[Slot]) -> RunContext:
        """That of a further fleet: its notes begin with its name."""
        layout = replace(self.layout, engines=tuple(engines))
        return replace(self, layout=layout, logs=logs, note=lambda text: self.note(f"{name}: {text}"))

    def fleet(self, config: Config, **said: Any) -> Engines:
        """Engines and their router; what is `said` goes to `Engines` as it is."""
        given = self.layout, self.machines, self.calls, self.logs, self.scratch, self.note, self.forks
        return Engines(config, *given, **said)

    def rank_places(self, config: Config, recoveries: Recoveries) -> RankPlaces:
        """Where the trainer's ranks are started."""
        return RankPlaces(self.layout, self.machines, self.calls, self.logs, config, self.forks, recoveries)

    def rollout(self, spec: RolloutSpec) -> Rollout:
        """A rollout service, beside the router."""
        return Rollout(spec, self.calls, self.logs, self.forks, self.machines[0])

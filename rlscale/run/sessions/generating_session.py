"""A session that only generates (`run.generate_only`): groups are stored, and no step is made on them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rlscale.data.sample import Group
from rlscale.run.disk.checkpoint import Progress
from rlscale.run.sessions.batch_metrics import batch_metrics
from rlscale.run.sessions.saver import Saver
from rlscale.run.sessions.session import Session, SessionParts
from rlscale.run.sides.batching import build_batch
from rlscale.run.sides.engine_side import SteadyEngines
from rlscale.trainer.checksums import damaged


class GeneratingSession(Session):
    """The verbs of a loop without a trainer, whose engines keep their weights."""

    def __init__(self, parts: SessionParts, engines: SteadyEngines) -> None:
        super().__init__(parts, Saver(parts.store, parts.config_hash))
        self._engines = engines

    def begin(self) -> None:
        """Continue from the newest checkpoint if there is one."""
        self._resume()
        self.records.begin_loop(self.state)
        self.go_on()

    def train(self, groups: Sequence[Group]) -> None:
        """No step: the iteration counts as done."""
        self._untrained = False
        self.state.iteration += 1
        self.records.rollouts(self.state.iteration, groups)
        self._metrics |= batch_metrics(groups, build_batch(groups, self.config), rewarded=True)
        self._metrics |= self._engines.metrics()

    def go_on(self) -> None:
        """Generate for the next iteration."""
        if not self._done:
            self._group_source.resume(self.state.version)

    def end(self) -> None:
        """Everything is stored by now, if the accounts of prompts and tokens say so."""
        self._ended = True
        self._group_source.state_dict(trained=True)  # which draws them up from the groups; nothing of it is kept
        self.records.end_loop(None)

    def _mend(self) -> None:
        self._engines.mend()

    def _state_to_save(self) -> Progress:
        return self.state

    def _damaged(self, checkpoint: Path, sums: dict[str, str]) -> list[str]:
        """Read here: there are no ranks that would share it."""
        return damaged(checkpoint, sums)

    def _load(self, checkpoint: Path) -> None:
        """There is nothing besides the driver's part and the rollout's."""

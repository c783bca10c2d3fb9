"""The two kinds of a session: reinforcement, whose engines generate what is trained on, and supervised."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rlscale.data.batch import Batch
from rlscale.data.sample import Group
from rlscale.run.batching import batch_metrics
from rlscale.run.session import Session


class ReinforcementSession(Session):
    """Every iteration trains on what the engines generated, and gives them the next weight version."""

    def _measured(self, groups: Sequence[Group], batch: Batch) -> dict[str, float]:
        """Lengths and rewards; a few of the samples are written down."""
        self.records.rollouts(self.state.iteration, groups)
        return batch_metrics(groups, batch, rewarded=True)

    @property
    def _measures_first_step(self) -> bool:
        """It does, unless the engine's log-probs are taken for the old ones."""
        return not self.config.algo.correction.bypass

    @property
    def _version_to_save(self) -> int:
        """The weights of a step that no sync followed are the next version: a run that continues sends them first."""
        return self._weights_are


class SupervisedSession(Session):
    """The data holds the answers. Engines, where there are any, only measure."""

    def evaluate(self, when: str) -> dict[str, Any]:
        """Measure the trainer's weights: nobody else needs them on the engines, so they get them now."""
        self.trainer_takes_devices()
        self.sync()
        self.engines_take_devices()
        return super().evaluate(when)

    def _measured(self, groups: Sequence[Group], batch: Batch) -> dict[str, float]:
        """Lengths; there is no reward."""
        return batch_metrics(groups, batch, rewarded=False)

    @property
    def _measures_first_step(self) -> bool:
        """There are no old log-probs."""
        return False

    @property
    def _version_to_save(self) -> int:
        """Versions count what engines were given."""
        return self.state.version

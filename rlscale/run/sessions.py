"""The kinds of a session: reinforcement, whose engines generate what is trained on, supervised, and generating only."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rlscale.data.batch import Batch
from rlscale.data.sample import Group
from rlscale.rollout.evaluation import EvalResult
from rlscale.run.batching import batch_metrics, build_batch
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

    def measure(self, names: Sequence[str]) -> Iterator[tuple[str, EvalResult]]:
        """Measure the trainer's weights: nobody else needs them on the engines, so they get them now."""
        self.trainer_takes_devices()
        self.sync()
        self.engines_take_devices()
        yield from super().measure(names)

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


class GeneratingSession(ReinforcementSession):
    """Every iteration's groups are stored, and no step is made: there is no trainer, nothing to measure or export."""

    def begin(self) -> None:
        """Continue from the newest checkpoint if there is one."""
        self._resume()
        self.records.begin_loop(self.state)
        if not self._done:
            self._group_source.resume(self.state.version)

    def train(self, groups: Sequence[Group]) -> None:
        """No step: the iteration counts as done."""
        self._untrained = False
        self.state.iteration += 1
        self._metrics |= self._measured(groups, build_batch(groups, self.config))

    def go_on(self) -> None:
        """Generate for the next iteration."""
        if not self._done:
            self._group_source.resume(self.state.version)

    def end(self) -> None:
        """Everything is stored by now."""
        self._ended = True
        self.records.end_loop(None)

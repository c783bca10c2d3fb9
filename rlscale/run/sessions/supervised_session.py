"""The session of supervised training: the data holds the answers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rlscale.data.batches.batch import Batch
from rlscale.data.batches.rank_shard import RankShard
from rlscale.data.sample import Group
from rlscale.rollout.evaluation import EvalResult
from rlscale.run.sessions.batch_metrics import batch_metrics
from rlscale.run.sessions.training_session import TrainingSession


class SupervisedSession(TrainingSession):
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

    def _steps(self, parts: list[RankShard]) -> dict[str, float]:
        """The policy's; there are no old log-probs."""
        return self._trainer.train_shards(parts, self.state.version)

    @property
    def _version_to_save(self) -> int:
        """Versions count what engines were given."""
        return self.state.version

"""The kinds of a session: reinforcement, whose engines generate what is trained on, supervised, and generating only."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rlscale.data.batch import Batch
from rlscale.data.rank_shard import RankShard
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

    def _steps(self, parts: list[RankShard]) -> dict[str, float]:
        """Critic's and policy's steps; the first iterations may be the critic's alone.

        The policy's first step is held against old log-probs of a pass of its own, unless the engine's are taken for
        them.
        """
        done = self.state.iteration - (self.config.critic.warmup_iterations if self._needs.critic else 0)
        force_old = done == 0 and not self.config.algo.correction.bypass
        return self._trainer.train_shards(parts, self.state.version, force_old=force_old, policy=done >= 0)

    def _export(self) -> None:
        """The policy, and the critic if there is one."""
        super()._export()
        if self._needs.critic:
            self._trainer.call("export", self.folder.hf_critic, "critic", what="export of the critic")

    @property
    def _learning_rates(self) -> str:
        """The policy's, and the critic's if there is one."""
        return "optim.lr or critic.optim.lr" if self._needs.critic else "optim.lr"

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

    def _steps(self, parts: list[RankShard]) -> dict[str, float]:
        """The policy's; there are no old log-probs."""
        return self._trainer.train_shards(parts, self.state.version)

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

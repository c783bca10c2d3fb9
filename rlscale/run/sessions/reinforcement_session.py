"""The session of reinforcement learning: engines generate what is trained on."""

from __future__ import annotations

from collections.abc import Sequence

from rlscale.config.derived.needs import Moment, Pass
from rlscale.config.schema.rollout_config import Store
from rlscale.data.batches.batch import Batch
from rlscale.data.batches.rank_shard import RankShard
from rlscale.data.sample import Group
from rlscale.data.stored.trained_tokens import TrainedTokens
from rlscale.run.sessions.batch_metrics import batch_metrics
from rlscale.run.sessions.training_session import TrainingSession


class ReinforcementSession(TrainingSession):
    """Every iteration trains on what the engines generated, and gives them the next weight version."""

    def go_on(self) -> None:
        """With what the engines do first, where the next iteration is one to be profiled."""
        if not self._done and self._is_profiled(self.state.iteration + 1):
            self._engines.begin_profile(self._profiles, self.state.iteration + 1)
        super().go_on()

    def collect(self) -> list[Group]:
        """See Session; what engines recorded meanwhile is written."""
        groups = super().collect()
        if self._is_profiled(self.state.iteration + 1):
            self._engines.end_profile()
        return groups

    def _measured(self, groups: Sequence[Group], batch: Batch) -> dict[str, float]:
        """Lengths and rewards; a few of the samples are written down."""
        self.records.rollouts(self.state.iteration, groups)
        return batch_metrics(groups, batch, rewarded=True)

    def _keep_tokens(self, groups: Sequence[Group], batch: Batch, parts: list[RankShard]) -> None:
        """Advantages of stored groups, and the trainer's log-probs: where `rollout.store_ratios`, by a pass for it."""
        store = self.records.rollout_store
        if store.keep is Store.none:
            return
        # Else the column holds the engine's own, or those of the weights that each token was sampled with.
        own = not self.config.algo.correction.bypass and self._needs.old_model == "policy"
        logprobs = batch.columns.get("old_logprobs") if own else None
        if logprobs is None and self.config.rollout.store_ratios:
            with self.records.model_pass("stored_logprobs"):
                logprobs = self._trainer.columns(Pass("old_logprobs", "policy", Moment.batch), parts, batch)
        tokens = TrainedTokens(batch.column("advantages"), logprobs)
        store.write_trained(self.state.iteration + 1, groups, tokens)

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

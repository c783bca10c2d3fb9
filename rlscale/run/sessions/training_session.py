"""A session that trains: ranks that make steps, and engines that get their weights.

What its two kinds do differently is in `reinforcement_session.py` and `supervised_session.py`.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np

from rlscale.config.derived.needs import Moment, Needs
from rlscale.data.batches.batch import Batch
from rlscale.data.batches.rank_shard import RankShard, split
from rlscale.data.sample import Group
from rlscale.observe.chrome_trace import FOLDER as PROFILES
from rlscale.rollout.evaluation import EvalResult
from rlscale.run.disk.checkpoint import Progress
from rlscale.run.processes.run_failed import RunFailed
from rlscale.run.sessions.evaluations import Evaluations, Measure
from rlscale.run.sessions.saver import SaverWithRanks
from rlscale.run.sessions.session import STOP_LOSS_WINDOW, Session, SessionParts
from rlscale.run.sides.batching import build_batch, divide
from rlscale.run.sides.engine_side import EngineSide
from rlscale.run.sides.trainer_side import TrainerSide
from rlscale.trainer.preparation import prepare


class TrainingSession(Session):
    """The verbs of a loop that trains."""

    def __init__(
        self,
        parts: SessionParts,
        trainer: TrainerSide,
        engines: EngineSide,
        evaluations: Callable[[Progress, Measure], Evaluations],
    ) -> None:
        timeout_s = parts.config.cluster.call_timeout_s
        super().__init__(parts, SaverWithRanks(parts.store, parts.config_hash, trainer, timeout_s))
        self._trainer, self._engines = trainer, engines
        self._unsynced = False  # whether steps were made whose weights no engine has yet
        self._in_steps = False  # whether the steps of an iteration may have begun that is not done
        self._needs = Needs.of(self.config)
        self._evaluations = evaluations(self.state, self.measure)

    # ---- the story of a run ------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Continue from the newest checkpoint if there is one, give the engines the weights, measure them."""
        self._resume()
        self.records.begin_loop(self.state)
        self.sync(count=False)
        self.engines_take_devices()
        self._evaluations.begin(self.state)
        self.go_on()

    def train(self, groups: Sequence[Group]) -> None:
        """The optimizer steps of this iteration; with them the iteration counts as done."""
        with self.records.span("train"), self._profiled(self.state.iteration + 1):
            batch = build_batch(groups, self.config).with_column("version", self.state.version)
            parts, plan = divide(batch, self.config, self._trainer.copies)
            batch = self._with_columns(batch, parts)
            batch, prepared = prepare(
                batch, self.config.algo, max_response_tokens=self.config.rollout.max_response_tokens
            )
            self._keep_tokens(groups, batch, parts)
            self._in_steps = True
            metrics = prepared | self._steps(split(batch, plan))
            self._count(metrics)
        metrics["oversized_samples"] = float(plan.oversized)
        self._metrics |= metrics
        self.records.ranks(self._trainer.busy())
        self.records.skipped_steps(self.state.iteration, metrics)
        self._check_metrics(metrics)
        self._metrics |= self._measured(groups, batch)

    def _count(self, metrics: dict[str, float]) -> None:
        """The steps are made, and what happens from here on makes none of them again: the iteration is done."""
        self._in_steps, self._untrained, self._unsynced = False, False, True
        self.state.steps += int(metrics.get("steps", 0))
        self.state.iteration += 1
        self._evaluations.iteration_done()
        if "loss" in metrics:  # not where every step was skipped, nor in the critic's warm-up
            self.state.recent_losses = [*self.state.recent_losses, metrics["loss"]][-STOP_LOSS_WINDOW:]

    def _profiled(self, iteration: int) -> AbstractContextManager[None]:
        """Where the iteration is one to be profiled, the ranks record what they compute."""
        return self._trainer.profiled(self._profiles, iteration) if self._is_profiled(iteration) else nullcontext()

    def _is_profiled(self, iteration: int) -> bool:
        return iteration in self.config.profile.iterations

    @property
    def _profiles(self) -> Path:
        return self.folder.path.resolve() / PROFILES

    def _keep_tokens(self, groups: Sequence[Group], batch: Batch, parts: list[RankShard]) -> None:
        """Store what the batch, prepared by now, will train tokens with. Nothing here."""

    @abstractmethod
    def _measured(self, groups: Sequence[Group], batch: Batch) -> dict[str, float]:
        """What the samples that were trained on were like."""

    def _with_columns(self, batch: Batch, parts: list[RankShard]) -> Batch:
        """The batch with what the models say of its tokens, as far as advantages or corrections need to know it."""
        for one in self._needs.passes_at(Moment.batch):
            with self.records.model_pass(one.column):
                batch = batch.with_column(one.column, self._trainer.columns(one, parts, batch))
        return batch

    @abstractmethod
    def _steps(self, parts: list[RankShard]) -> dict[str, float]:
        """The optimizer steps on these shards, and their metrics."""

    def sync(self, *, count: bool = True) -> None:
        """The trainer's weights become the next weight version and go to every engine."""
        with self.records.span("sync"):
            self.state.version += count
            self._unsynced = False
            self._metrics.update(self._engines.update_weights(self.state.version))

    def go_on(self) -> None:
        """Let the engines generate for the next iteration, and evaluate the same weights meanwhile when it is due."""
        if self._done:
            return
        self._group_source.resume(self.state.version)
        self._evaluations.between()
        self._metrics |= self._evaluations.beside()

    def end(self) -> None:
        """Measure the final weights, save them, export them."""
        self._ended = True
        self.records.end_loop(self._evaluations.after(self._mend))
        self.records.phase("saving the model")
        self.trainer_takes_devices()
        self.save()
        self._export()

    def _export(self) -> None:
        """Write the final model in Hugging Face format."""
        self._trainer.call("export", self.folder.hf, what="export")

    # ---- taking turns on shared devices ------------------------------------------------------------------------

    def trainer_takes_devices(self) -> None:
        """Engines give up their memory, the trainer's state comes back (only where there is a device to share)."""
        if self._engines.shares_devices:
            self._group_source.pause(self._mend)
            self._engines.make_way()

    def engines_take_devices(self) -> None:
        """The trainer's state goes to host memory, engines take their cache back (where there is a device to share)."""
        self._engines.come_back()

    def pause_generation(self) -> None:
        """Wait until no generation is in flight; not where the sync itself makes one engine after another ready."""
        if self.config.syncs_in_waves:
            return
        with self.records.span("generate"):
            self._group_source.pause(self._mend)

    # ---- measuring, saving, mending ----------------------------------------------------------------------------

    def measure(self, names: Sequence[str]) -> Iterator[tuple[str, EvalResult]]:
        """Measure the engines' weights on the evaluation sets of these names, one after another."""
        for name in names:
            with self.records.span("evaluate"):
                result = self._engines.evaluate(self.state.version, self._mend, name)
            yield name, result

    def _state_to_save(self) -> Progress:
        """With the version of the weights, and the evaluations that are owed."""
        return replace(self._evaluations.to_save(), version=self._version_to_save)

    @property
    @abstractmethod
    def _version_to_save(self) -> int:
        """The weight version that a run which continues from now begins with."""

    def _is_worth_saving(self) -> bool:
        """Not after a step that leaves nothing to go on from, nor after steps of an iteration that is not counted.

        A run that continues would make those again.
        """
        if not super()._is_worth_saving() or not self._trustworthy:
            return False
        if not self._in_steps or self._trainer.awaits_others or not self._trainer.part_made():
            return True
        self.records.note(
            f"no checkpoint is written, as steps of iteration {self.state.iteration + 1} were made, perhaps not all; "
            "the last one still stands"
        )
        return False

    def _refuse_silence(self) -> None:
        """Engines end before the ranks are asked: a rank may wait for one that is frozen."""
        super()._refuse_silence()
        self._engines.end()
        if not self._trainer.awaits_others:
            self._trainer.part_made()

    def _save_last(self) -> None:
        """Engines that share the devices leave first. Nothing where ranks are lost: a run that ends gets no others."""
        if self._trainer.awaits_others:
            self.records.note(
                "no checkpoint could be written, as the trainer's ranks are lost; the last one still stands"
            )
            return
        self._engines.leave()
        super()._save_last()

    def _load(self, checkpoint: Path) -> None:
        self._trainer.load(checkpoint)

    def _damaged(self, checkpoint: Path, sums: dict[str, str]) -> list[str]:
        return self._trainer.damaged(checkpoint, sums)

    @property
    def _weights_are(self) -> int:
        """The version of the trainer's weights: after a step that no sync followed yet, the next one."""
        return self.state.version + self._unsynced

    def _mend(self) -> None:
        """Between the polls of a wait: bring dead engines back, and finish what is written or measured meanwhile."""
        self._evaluations.look(self._weights_are)
        if self._engines.mend(self._weights_are):
            self._finish_saving(wait=False)

    @property
    def _learning_rates(self) -> str:
        """The keys of the learning rates that steps are made with, for a message."""
        return "optim.lr"

    def _check_metrics(self, metrics: dict[str, float]) -> None:
        """Stop when steps are skipped again and again, and when trainer and engines disagree more than allowed.

        Skipped steps leave the weights alone: a checkpoint is still worth writing after them. It is not after a loss
        that is not finite although its gradient is.
        """
        skipped, most = metrics.get("skipped_in_a_row", 0.0), self.config.trainer.max_skipped_steps
        if skipped > most:
            raise RunFailed(
                f"{skipped:.0f} steps in a row were skipped, as their gradients are not finite, more than "
                f"trainer.max_skipped_steps={most}; lower {self._learning_rates}"
            )
        for name, key in (("loss", "optim.lr"), ("critic_loss", "critic.optim.lr")):
            if not np.isfinite(metrics.get(name, 0.0)):
                self._trustworthy = False
                raise RunFailed(f"{name} of iteration {self.state.iteration} is not finite; lower {key}")
        largest = metrics.get("logprob_diff_max", 0.0)
        if self.config.run.bitwise and largest > 0:
            self._trustworthy = False
            raise RunFailed(
                f"trainer and engine log-probs of the same weights differ by {largest:.2e} in iteration "
                f"{self.state.iteration}, though run.bitwise=true; leave run.bitwise out"
            )
        bound = self.config.weights.max_logprob_diff
        drift = metrics.get("logprob_diff_mean", 0.0)
        if bound is not None and drift > bound:
            self._trustworthy = False
            raise RunFailed(
                f"trainer and engine log-probs differ by {drift:.2e} on average, "
                f"more than weights.max_logprob_diff={bound:g}"
            )

"""One run from its first prompt to its summary: the verbs that the loops are told in.

A session owns every part of the run (ranks, the engines' side, where groups come from, records) and what must survive
a kill (`state`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np

from rlscale.config.errors import UserError
from rlscale.config.needs import Moment, Needs
from rlscale.config.schema import Config
from rlscale.data.batch import Batch
from rlscale.data.rank_shard import RankShard, split
from rlscale.data.sample import Group
from rlscale.rollout.evaluation import EvalResult
from rlscale.run.batching import build_batch, divide
from rlscale.run.checkpoint import CheckpointFailed, CheckpointStore, Progress, load_progress, load_rollout
from rlscale.run.engine_side import EngineSide
from rlscale.run.evaluations import Evaluations, Measure
from rlscale.run.group_source import GroupSource
from rlscale.run.records import Records
from rlscale.run.remote_calls import Calls, RunFailed, StopRequested, StopSignal
from rlscale.run.resume import usable_checkpoint
from rlscale.run.run_folder import RunFolder
from rlscale.run.saver import Saver
from rlscale.run.trainer_side import TrainerSide
from rlscale.trainer.preparation import prepare

_SAVE_AFTER_FAILURE_S = 10.0
_STOP_LOSS_WINDOW = 10


class Session(ABC):
    """The parts of a run and the verbs of its loop. What differs between the ways of training is in its two kinds."""

    def __init__(
        self,
        config: Config,
        config_hash: str,
        folder: RunFolder,
        *,
        calls: Calls,
        stop: StopSignal,
        trainer: TrainerSide,
        group_source: GroupSource,
        engines: EngineSide,
        records: Records,
        evaluations: Callable[[Progress, Measure], Evaluations],
    ) -> None:
        self.config, self.folder, self.records = config, folder, records
        self._calls, self._stop = calls, stop
        self._trainer, self._group_source, self._engines = trainer, group_source, engines
        self._store = CheckpointStore(folder.checkpoints, config.checkpoint.keep)
        self._saver = Saver(self._store, trainer, config_hash, config.cluster.call_timeout_s)
        self._saved_at = -1
        self._untrained = False  # whether a batch may have left the rollout that no step was made on
        self._unsynced = False  # whether steps were made whose weights no engine has yet
        self._ended = False  # whether the loop came to its end
        self._trustworthy = True  # whether the trainer's state is worth saving
        self._metrics: dict[str, float] = {}
        self._needs = Needs.of(config)
        self.state = Progress()
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

    def iterations(self) -> Iterator[int]:
        """The iterations that are left; ends by raising StopRequested when the user asks to stop."""
        while not self._done:
            self._stop.check()
            yield self.state.iteration

    def collect(self) -> list[Group]:
        """Wait for the next iteration's groups, mending engines meanwhile."""
        self._untrained = True
        with self.records.span("generate"):
            groups = self._group_source.collect(self._mend)
            self.records.store(self.state, groups)
        self.records.generation(self._group_source.stats())
        return groups

    def train(self, groups: Sequence[Group]) -> None:
        """The optimizer steps of this iteration; with them the iteration counts as done."""
        with self.records.span("train"):
            batch = build_batch(groups, self.config).with_column("version", self.state.version)
            parts, plan = divide(batch, self.config)
            batch = self._with_columns(batch, parts)
            batch, prepared = prepare(
                batch, self.config.algo, max_response_tokens=self.config.rollout.max_response_tokens
            )
            metrics = prepared | self._steps(split(batch, plan))
        self.records.skipped_steps(self.state.iteration + 1, metrics)
        self._check_metrics(metrics)
        self._untrained, self._unsynced = False, True
        self.state.steps += int(metrics.get("steps", 0))
        self.state.iteration += 1
        self._evaluations.iteration_done()
        if "loss" in metrics:  # not where every step was skipped, nor in the critic's warm-up
            self.state.recent_losses = [*self.state.recent_losses, metrics["loss"]][-_STOP_LOSS_WINDOW:]
        metrics["oversized_samples"] = float(plan.oversized)
        self._metrics |= self._measured(groups, batch) | metrics

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

    def record(self) -> None:
        """Log the iteration, and save when a checkpoint is due."""
        self.records.iteration(self.state, self._metrics)
        self._metrics = {}
        every = self.config.checkpoint.every
        if every and self.state.iteration % every == 0 and not self._done:
            self._save_in_passing()
        else:
            self._finish_saving(wait=False)

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

    def check_ended(self, loop: str) -> None:
        """UserError where a loop returned before the last iteration, or without `end`: no final model was written."""
        missing = "all of run.iterations()" if not self._done else "run.end()" if not self._ended else None
        if missing is not None:
            done = f"after {self.state.iteration} of {self.config.run.iterations} iterations"
            raise UserError(
                f"loop: {loop} returned {done} without {missing}; try `python -m rlscale check-hook {loop}`"
            )

    @property
    def _done(self) -> bool:
        """Whether the last iteration is behind us, or the loss is as low as the user wants it."""
        losses, bound = self.state.recent_losses, self.config.run.stop_loss
        low = bound is not None and len(losses) == _STOP_LOSS_WINDOW and float(np.mean(losses)) < bound
        return low or self.state.iteration >= self.config.run.iterations

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
        """Wait until no generation is in flight."""
        with self.records.span("generate"):
            self._group_source.pause(self._mend)

    # ---- measuring, saving, mending ----------------------------------------------------------------------------

    def measure(self, names: Sequence[str]) -> Iterator[tuple[str, EvalResult]]:
        """Measure the engines' weights on the evaluation sets of these names, one after another."""
        for name in names:
            with self.records.span("evaluate"):
                result = self._engines.evaluate(self.state.version, self._mend, name)
            yield name, result

    def save(self) -> None:
        """Write a checkpoint of this very moment and wait until it is whole. CheckpointFailed when the disk refuses."""
        self._finish_saving(wait=True)
        if self._saved_at != self.state.iteration:
            self._begin_saving(copy=False)
            self._complete(wait=True)

    def _begin_saving(self, *, copy: bool) -> None:
        """Save this very moment. Generation in flight is not part of it: its prompts come again."""
        with self.records.span("checkpoint"):
            self.records.update_counters(self.state)
            rollout = self._group_source.state_dict(trained=not self._untrained)
            state = replace(self._evaluations.to_save(), version=self._version_to_save)
            self._saver.begin(state, rollout, copy=copy)
        self._saved_at = self.state.iteration

    @property
    @abstractmethod
    def _version_to_save(self) -> int:
        """The weight version that a run which continues from now begins with."""

    def _save_in_passing(self) -> None:
        """Save, and go on also when the disk refuses: that is said, and tried again when the next one is due."""
        self._finish_saving(wait=True)
        asynchronous = self.config.checkpoint.asynchronous
        try:
            self._begin_saving(copy=asynchronous)
        except CheckpointFailed as error:
            self.records.note(str(error))
        self._finish_saving(wait=not asynchronous)

    def _finish_saving(self, *, wait: bool) -> None:
        """Make the checkpoint that is being written whole if it is written, or wait for it; say so if it failed."""
        if not self._saver.busy:
            return
        try:
            self._complete(wait=wait)
        except CheckpointFailed as error:
            self.records.note(str(error))

    def _complete(self, *, wait: bool) -> None:
        # A look that does not wait may come in the middle of another span, which it is a part of.
        with self.records.span("checkpoint") if wait else nullcontext():
            try:
                self._saver.finish(wait=wait)
            except CheckpointFailed:
                self._saved_at = -1
                raise

    def save_and_stop(self) -> None:
        """The user asked to stop: save what is done, so that the same command goes on from here."""
        self._finish_saving(wait=True)
        if self.state.iteration > self._saved_at and self.state.iteration > 0 and self._trustworthy:
            self.records.phase("saving a checkpoint before stopping")
            self._engines.leave()
            self.save()

    def save_after_failure(self) -> None:
        """Something failed: save what is done if the trainer still answers; the failure itself is reported anyway."""
        self._calls.shorten(_SAVE_AFTER_FAILURE_S)
        try:
            self.save_and_stop()
        except (UserError, StopRequested):
            self.records.note("no checkpoint could be written after the failure; the last one still stands")

    def _resume(self) -> None:
        newest = usable_checkpoint(self._store, self._damaged, self.records.note) if self.folder.resumed else None
        if newest is None:
            return
        self.state = load_progress(newest)
        self._trainer.call("load", newest / "trainer", what="loading the checkpoint")
        self._group_source.load_state_dict(load_rollout(newest))
        self._saved_at = self.state.iteration
        self.records.note(f"continuing from iteration {self.state.iteration} ({newest})")

    def _damaged(self, checkpoint: Path, sums: dict[str, str]) -> list[str]:
        """The damaged files of a checkpoint; every rank reads its share."""
        found = self._trainer.call("damaged", checkpoint, sums, what="checking the checkpoint")
        return [name for names in found for name in names]

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
                raise RunFailed(f"{name} of iteration {self.state.iteration + 1} is not finite; lower {key}")
        bound = self.config.weights.max_logprob_diff
        drift = metrics.get("logprob_diff_mean", 0.0)
        if bound is not None and drift > bound:
            self._trustworthy = False
            raise RunFailed(
                f"trainer and engine log-probs differ by {drift:.2e} on average, "
                f"more than weights.max_logprob_diff={bound:g}"
            )

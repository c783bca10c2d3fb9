"""One run from its first prompt to its summary: the verbs that the loops are told in.

A session owns every part of the run (where groups come from, who makes or serves them, records) and what must survive a
kill (`state`). Here is what all kinds share; `training_session.py` and `generating_session.py` have the rest.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rlscale.config.errors import UserError
from rlscale.config.schema import Config
from rlscale.data.sample import Group
from rlscale.run.disk.best_checkpoints import BestCheckpoints
from rlscale.run.disk.checkpoint import CheckpointFailed, CheckpointStore, Progress, load_progress, load_rollout
from rlscale.run.disk.records import Records
from rlscale.run.disk.resume import usable_checkpoint
from rlscale.run.disk.run_folder import RunFolder
from rlscale.run.processes.remote_calls import Calls
from rlscale.run.processes.stop_signal import StopRequested, StopSignal
from rlscale.run.sessions.save_schedule import SaveSchedule
from rlscale.run.sessions.saver import Saver
from rlscale.run.sides.group_source import GroupSource

_ANSWER_S = 8.0
"""How long those who would save may be silent once a run is to end, by the user's wish or a failure: they may hang."""
_ENDS = "the run is to end, without a new checkpoint"
STOP_LOSS_WINDOW = 10
"""Losses of so many iterations are averaged where `run.stop_loss` ends a run."""


@dataclass(frozen=True)
class SessionParts:
    """What every session is built from."""

    config: Config
    config_hash: str
    folder: RunFolder
    calls: Calls
    stop: StopSignal
    group_source: GroupSource
    records: Records

    @property
    def store(self) -> CheckpointStore:
        """Where checkpoints are, and which of them stay."""
        saving = self.config.checkpoint
        best = BestCheckpoints.of(saving, self.folder.path, self.records.note)
        return CheckpointStore(self.folder.checkpoints, saving.keep, best, self.records.note)


class Session(ABC):
    """The parts of a run and the verbs of its loop, as far as they are those of every kind."""

    def __init__(self, parts: SessionParts, saver: Saver) -> None:
        self.config, self.folder, self.records = parts.config, parts.folder, parts.records
        self._calls, self._stop, self._group_source = parts.calls, parts.stop, parts.group_source
        self._saver, self._schedule = saver, SaveSchedule(parts.config.checkpoint, parts.stop)
        self._saved_at = -1
        self._recorded = 0  # the last iteration that was logged
        self._untrained = False  # whether a batch may have left the rollout that no iteration was counted for
        self._ended = False  # whether the loop came to its end
        self._trustworthy = True  # whether what was computed is worth saving
        self._metrics: dict[str, float] = {}
        self.state = Progress()

    # ---- the story of a run ------------------------------------------------------------------------------------

    @abstractmethod
    def begin(self) -> None:
        """Continue from the newest checkpoint if there is one, and let the engines begin."""

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
            self.records.rollout_store.write(self.state.iteration + 1, self.state.version, groups)
        self.records.generation(self.state.iteration + 1, self._group_source.stats())
        return groups

    @abstractmethod
    def train(self, groups: Sequence[Group]) -> None:
        """What becomes of an iteration's groups; with it the iteration counts as done."""

    def record(self) -> None:
        """Log the iteration, and save when a checkpoint is due."""
        self._log(self.state)
        if self._schedule.due(self.state.iteration) and not self._done:
            self._save_in_passing()
        else:
            self._finish_saving(wait=False)

    def _log(self, state: Progress) -> None:
        self._recorded = state.iteration  # not again, should this fail
        self.records.iteration(state, self._metrics)
        self._metrics = {}

    @abstractmethod
    def go_on(self) -> None:
        """Let the engines generate for the next iteration."""

    @abstractmethod
    def end(self) -> None:
        """Leave behind what the run was for."""

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
        low = bound is not None and len(losses) == STOP_LOSS_WINDOW and float(np.mean(losses)) < bound
        return low or self.state.iteration >= self.config.run.iterations

    # ---- saving, mending ---------------------------------------------------------------------------------------

    @abstractmethod
    def _mend(self) -> None:
        """Between the polls of a wait: bring dead engines back, and finish what is written or measured meanwhile."""

    def save(self) -> None:
        """Write a checkpoint of this very moment and wait until it is whole. CheckpointFailed when the disk refuses."""
        self._finish_saving(wait=True)
        while self._saved_at != self.state.iteration:
            self._begin_saving(copy=False)
            try:
                self._complete(wait=True)
            except CheckpointFailed as error:
                if not self._saver.lost:
                    raise
                self.records.note(str(error))

    def _begin_saving(self, *, copy: bool) -> None:
        """Save this very moment. Generation in flight is not part of it: its prompts come again."""
        self._schedule.begun()
        with self.records.span("checkpoint"):
            self.records.update_counters(self.state)
            rollout = self._group_source.state_dict(trained=not self._untrained)
            self._saver.begin(self._state_to_save(), rollout, copy=copy)
        self._saved_at = self.state.iteration

    @abstractmethod
    def _state_to_save(self) -> Progress:
        """What a run that continues from now begins with."""

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
        try:
            self._save_what_is_done()
        except UserError:
            self._log_cut_off()
            raise

    def _save_what_is_done(self) -> None:
        if self._saver.busy or self._has_unsaved:
            with self._calls.shortened(self._answer_s, _ENDS):
                self._refuse_silence()
        self._finish_saving(wait=True)  # in the time that it takes: they are there
        if self._is_worth_saving():
            self._log_cut_off()
            self.records.phase("saving a checkpoint before stopping; Ctrl-C once more ends without it")
            self._save_last()

    @property
    def _answer_s(self) -> float:
        """In time for the end of a job each has a quarter of the time."""
        before_s = self.config.checkpoint.before_s
        if before_s is None or self._calls.hurried or not self._calls.stopping:
            return _ANSWER_S
        return max(before_s / 4, _ANSWER_S)

    def _log_cut_off(self) -> None:
        """Log an iteration that was cut off in the sync after its steps, which nobody makes again."""
        if self._trustworthy and self.state.iteration > self._recorded:
            self._log(self._state_to_save())

    @property
    def _has_unsaved(self) -> bool:
        """Whether there is anything that no checkpoint has."""
        return self.state.iteration > self._saved_at and self.state.iteration > 0

    def _is_worth_saving(self) -> bool:
        """Whether to save it."""
        return self._has_unsaved

    def _save_last(self) -> None:
        """Save, at the end of a run that was stopped."""
        self.save()

    def save_after_failure(self) -> None:
        """Something failed: save what is done if all still answer; the failure itself is reported anyway."""
        self._calls.failed = True
        try:
            self.save_and_stop()
        except (UserError, StopRequested):
            self.records.note("no checkpoint could be written after the failure; the last one still stands")

    def _refuse_silence(self) -> None:
        """UserError where one who has a part of what is saved does not answer."""
        self._group_source.is_there()

    def _resume(self) -> None:
        newest = usable_checkpoint(self._saver.store, self._damaged, self.records.note) if self.folder.resumed else None
        if newest is None:
            return
        self.state = load_progress(newest)
        self._saved_at = self._recorded = self.state.iteration  # what fails from here on has made nothing new
        self._load(newest)
        self._group_source.load_state_dict(load_rollout(newest))
        self.records.note(f"continuing from iteration {self.state.iteration} ({newest})")

    @abstractmethod
    def _damaged(self, checkpoint: Path, sums: dict[str, str]) -> list[str]:
        """The files of a checkpoint whose content has another checksum."""

    @abstractmethod
    def _load(self, checkpoint: Path) -> None:
        """Continue from a checkpoint with what is not of the driver or of the rollout."""

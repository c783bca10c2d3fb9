"""Saving a run: the driver's and the rollout's part, and where there is a trainer what its ranks write."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from rlscale.config.errors import UserError
from rlscale.run.disk.checkpoint import Begun, CheckpointFailed, CheckpointStore, Progress
from rlscale.run.processes.remote_calls import POLL_S
from rlscale.run.processes.run_failed import RunFailed
from rlscale.run.sides.trainer_side import TrainerSide
from rlscale.serve.pulse import Patience

_WHAT = "checkpoint"
_Answer = TypeVar("_Answer")


class Saver:
    """Writes one checkpoint at a time: what the driver itself has of a run."""

    def __init__(self, store: CheckpointStore, config_hash: str) -> None:
        self.store = store
        """Where the checkpoints are."""
        self._hash = config_hash
        self._begun: Begun | None = None

    @property
    def busy(self) -> bool:
        """Whether a checkpoint is being written."""
        return self._begun is not None

    @property
    def lost(self) -> bool:
        """Whether those who had begun to write the last one are gone: others may write what they did not."""
        return False

    def begin(self, progress: Progress, rollout: Any, *, copy: bool) -> None:
        """Save this moment. With `copy` the run may go on meanwhile, else all of it is written now.

        Whole only after `finish`, which must have come for an earlier one. CheckpointFailed when the disk refuses.
        """
        self._begun = self.store.begin(progress, self._hash, rollout)

    def finish(self, *, wait: bool) -> Path | None:
        """Make the checkpoint whole if it is written, or wait until it is; None if nothing became whole.

        CheckpointFailed when the disk refuses.
        """
        begun, self._begun = self._begun, None
        return None if begun is None else self.store.complete(begun)


class SaverWithRanks(Saver):
    """The same with what the trainer's ranks write: whole when all of them have."""

    def __init__(self, store: CheckpointStore, config_hash: str, trainer: TrainerSide, timeout_s: float) -> None:
        """`timeout_s`: how long the ranks may write before they count as hung."""
        super().__init__(store, config_hash)
        self._trainer, self._timeout_s = trainer, timeout_s
        self._losses = 0  # of ranks, when the save began

    @property
    def lost(self) -> bool:
        """See Saver."""
        return self._losses != self._trainer.losses

    def begin(self, progress: Progress, rollout: Any, *, copy: bool) -> None:
        """See Saver. With `copy` the ranks write a copy while the run goes on, else they have written it now."""
        self._losses = self._trainer.losses
        begun = self.store.begin(progress, self._hash, rollout)
        try:
            self._asking(begun, lambda: self._trainer.begin_save(begun.trainer, copy))
        except CheckpointFailed:
            if not self.lost:
                raise
            return self.begin(progress, rollout, copy=copy)  # by those in the place of lost ranks
        self._losses = self._trainer.losses  # those who write may have come in the place of lost ones just now
        self._begun = begun
        return None

    def finish(self, *, wait: bool) -> Path | None:
        """See Saver. RunFailed when a rank hangs, or died for good."""
        begun, patience = self._begun, Patience()
        if begun is None:
            return None
        while not self._asking(begun, self._is_saved):
            if not wait:
                return None
            if patience.look(True) > self._timeout_s:
                late = f"{_WHAT} was not written within {self._timeout_s:.0f} s (cluster.call_timeout_s)"
                raise RunFailed(f"{late}. {self._trainer.doing()}")
            time.sleep(POLL_S)
        self._begun = None
        self._asking(begun, self._trainer.finish_save)
        whole = self.store.complete(begun)
        self._trainer.saved(whole)
        return whole

    def _is_saved(self) -> bool:
        if self.lost:
            raise UserError("ranks that wrote it were lost")
        return self._trainer.is_saved()

    def _asking(self, begun: Begun, ask: Callable[[], _Answer]) -> _Answer:
        """Ask the ranks; a refusal of theirs takes the checkpoint back."""
        try:
            return ask()
        except RunFailed:
            raise
        except UserError as error:
            self._begun = None
            raise self.store.failed(begun, error) from error

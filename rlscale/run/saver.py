"""Saving a run: the driver's and the rollout's part, and where there is a trainer what its ranks write."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from rlscale.config.errors import UserError
from rlscale.run.checkpoint import Begun, CheckpointStore, Progress
from rlscale.run.remote_calls import POLL_S, RunFailed
from rlscale.run.trainer_side import TrainerSide

_WHAT = "checkpoint"


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

    def begin(self, progress: Progress, rollout: Any, *, copy: bool) -> None:
        """See Saver. With `copy` the ranks write a copy while the run goes on, else they have written it now."""
        begun = self.store.begin(progress, self._hash, rollout)
        self._asking(begun, "begin_save", begun.trainer, copy)
        self._begun = begun

    def finish(self, *, wait: bool) -> Path | None:
        """See Saver. RunFailed when a rank died or hangs."""
        begun, deadline = self._begun, time.monotonic() + self._timeout_s
        if begun is None:
            return None
        while not all(self._trainer.call("saved", what=_WHAT)):
            if not wait:
                return None
            if time.monotonic() > deadline:
                raise RunFailed(f"{_WHAT} was not written within {self._timeout_s:.0f} s (cluster.call_timeout_s)")
            time.sleep(POLL_S)
        self._begun = None
        self._asking(begun, "finish_save")
        return self.store.complete(begun)

    def _asking(self, begun: Begun, method: str, *args: Any) -> None:
        """Call the ranks; a refusal of theirs takes the checkpoint back."""
        try:
            self._trainer.call(method, *args, what=_WHAT)
        except RunFailed:
            raise
        except UserError as error:
            raise self.store.failed(begun, error) from error

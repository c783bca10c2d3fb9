"""What brings a trainer back whose ranks were lost: where it begins again, and what it is given to do once more.

A trainer is a machine that the same steps bring to the same state: the checkpoint's, or that of a copy in memory, with
the batches that it was trained on since. Those are still here, as Ray's store has what the ranks were sent, and spills
it to disk when it is full. So nothing is undone anywhere else: engines keep their weights and their versions, the
rollout what it has generated, and the run goes on at the very call in which the ranks were lost.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rlscale.config.derived.same_state import copies_state, fewer_can_begin
from rlscale.config.schema import Config
from rlscale.config.schema.run_config import Recover
from rlscale.run.processes.placement import shares_devices
from rlscale.run.processes.remote_calls import Calls, ProcessLost
from rlscale.run.processes.run_failed import RunFailed
from rlscale.run.sides.state_copies import StateCopies

RECOVERIES_WITHIN = 100
"""Iterations after which a recovery counts no more for `run.recover_at_most`."""


@dataclass(frozen=True)
class Steps:
    """What the ranks were told to train on in an iteration."""

    shards: Sequence[Any]
    """Ray's references to the shard of each data-parallel place."""
    version: int
    force_old: bool
    policy: bool

    @property
    def name(self) -> str:
        """What they are called; those of the critic alone take another time."""
        return "training step" if self.policy else "training step of the critic"


@dataclass
class RedoLog:
    """What leads from a checkpoint, or from a copy in memory, to where the trainer is now."""

    checkpoint: Path | None = None
    """The whole checkpoint that it begins with; None for the weights that the run began with."""
    resumed: bool = False
    """Whether the run itself was continued from that checkpoint."""
    steps: list[Steps] = field(default_factory=list)
    """What was trained last, the oldest first."""
    first: int = 0
    """How many were trained before them."""
    _checkpoint_at: int = 0
    """How many were trained before the checkpoint."""
    _in_save: int = 0

    @property
    def done(self) -> int:
        """How many iterations were trained in all."""
        return self.first + len(self.steps)

    @property
    def reaches_back(self) -> bool:
        """Whether all is here that came after the checkpoint."""
        return self.first <= self._checkpoint_at

    def since(self, done: int | None = None) -> list[Steps]:
        """What was trained after the first `done` iterations; by default after the checkpoint."""
        return self.steps[max((self._checkpoint_at if done is None else done) - self.first, 0) :]

    def forget(self, done: int) -> None:
        """Nobody begins before the end of the first `done` iterations."""
        del self.steps[: max(done - self.first, 0)]
        self.first = max(done, self.first)

    def loaded(self, checkpoint: Path) -> None:
        """The run continues from a checkpoint."""
        self.checkpoint, self.resumed, self._checkpoint_at = checkpoint, True, self.done
        self.forget(self.done)

    def save_begun(self) -> None:
        """A checkpoint of this moment is being written."""
        self._in_save = self.done

    def saved(self, checkpoint: Path) -> None:
        """It is whole: what it holds need not be done again."""
        self.checkpoint, self.resumed, self._checkpoint_at = checkpoint, False, self._in_save
        self.forget(self._in_save)


class Recoveries:
    """Whether lost ranks are brought back (`run.recover`), and how often they were."""

    def __init__(self, config: Config, calls: Calls, note: Callable[[str], None]) -> None:
        self._calls, self.note = calls, note
        self._most = config.run.recover_at_most
        back = config.run.recover is Recover.trainer and not config.run.in_process
        self.saves = config.checkpoint.every > 0 or config.checkpoint.every_s is not None
        """Whether checkpoints are written on the way."""
        without = "lost ranks would begin with a checkpoint" if self.saves else "the loss of a rank would end the run"
        asked = config.checkpoint.in_memory is True
        self.copies = StateCopies(calls, note, without, asked=asked) if back and copies_state(config) else None
        """What keeps the ranks' state in memory; None where that is not wanted."""
        self._back = back
        self.may_shrink = back and fewer_can_begin(config) and not shares_devices(config.cluster)
        """Whether ranks may come back on fewer machines: not where engines are lost with these, too, or where fewer
        ranks have nothing to begin with."""
        self._why_no_copies = (
            "as checkpoint.in_memory=false"
            if config.checkpoint.in_memory is False
            else "as no other rank has its state"
        )
        self.count = 0
        """How often they were brought back."""
        self._lately: list[int] = []  # after how many iterations, each time that still counts

    def begin(self, lost: ProcessLost, done: int) -> None:
        """Count one more, after `done` iterations.

        The error itself where the run is to end of it; with a word on the bound if that is why.
        """
        if not self.possible:
            raise lost
        self._lately = [before for before in self._lately if done - before < RECOVERIES_WITHIN]
        if len(self._lately) >= self._most:
            used_up = f"run.recover_at_most={self._most} recoveries within {RECOVERIES_WITHIN} iterations are used up"
            raise RunFailed(f"{lost} ({used_up})") from lost
        self._lately.append(done)
        self.count += 1
        self.note(f"{lost.brief}; starting the trainer's ranks again")

    @property
    def wanted(self) -> bool:
        """Whether what is trained must be kept to be done again.

        Without checkpoints and copies that would be all of the run; a rank that is this process is lost with it, and
        its batches would stay in this process's memory.
        """
        return self._back and (self.saves or (self.copies is not None and self.copies.able))

    @property
    def possible(self) -> bool:
        """Whether the bound alone can forbid it: not while the run ends, by a signal or of a failure."""
        return self.wanted and not self._calls.stopping and not self._calls.failed

    def done(self, log: RedoLog, copied: int | None) -> None:
        """They are as they were before, by the copy of their state after `copied` iterations or by a checkpoint."""
        again = f"iterations trained again: {len(log.since(copied))}"
        if copied is not None:
            self.note(f"the trainer's ranks are back with the state that was copied in memory; {again}")
            return
        since = f"from {log.checkpoint}" if log.checkpoint is not None else "from the run's first weights"
        self.note(f"the trainer's ranks are back {since}, {self.why_no_copy}; {again}")

    def need_all_since(self, log: RedoLog) -> None:
        """RunFailed where nothing leads from the checkpoint to where the trainer was."""
        if not log.reaches_back:
            again = "begins anew" if log.checkpoint is None else f"goes on from {log.checkpoint}"
            raise RunFailed(
                f"the trainer's ranks are lost for good, {self.why_no_copy}, and as no checkpoints are "
                f"written on the way (checkpoint.every=0); the same command {again}"
            )

    @property
    def why_no_copy(self) -> str:
        """Why lost ranks do not begin with a copy in memory."""
        return self._why_no_copies if self.copies is None else self.copies.why_none

"""What the user, or the end of the job, wants of a run: that it stops, or that it saves and goes on."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

_SAME_S = 1.0
"""Seconds within which a signal that comes again is the same."""


class StopRequested(Exception):
    """The run is to stop: Ctrl-C, SIGTERM, or its job ends soon."""


class StopSignal:
    """Turns the first Ctrl-C or SIGTERM into a flag, and SIGUSR1 into another; a second one ends the process.

    One of the same kind within a second is the same: GNU `timeout` signals its child and then the whole group, and so
    do some schedulers. A run that its job ends soon (`end_at`) is asked to stop in the same way.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """`clock`: seconds from any start."""
        self._clock = clock
        self._first: tuple[int, float] | None = None  # the signal that asked, and when
        self.save_requested = False
        """Whether a checkpoint was asked for; who begins one takes this back."""
        self._asked = False
        self._end_at: float | None = None
        self._why = ""
        self._before: dict[int, Any] = {}

    @property
    def requested(self) -> bool:
        """Whether the run is to stop."""
        return self._asked or self._out_of_time

    @property
    def asked(self) -> bool:
        """Whether somebody asked for it, who waits for the end; a job that ends soon does not."""
        return self._asked

    @property
    def why(self) -> str | None:
        """A line on why the run is to stop; None where the user knows."""
        return self._why if self._out_of_time and not self._asked else None

    def end_at(self, moment: float, why: str) -> None:
        """Ask the run to stop at a moment, in seconds since 1970; `why` is what is said then."""
        self._end_at, self._why = moment, why

    def ask(self) -> None:
        """Ask the run to stop, as the first Ctrl-C does."""
        self._asked = True

    def install(self) -> None:
        """Take over SIGINT, SIGTERM and SIGUSR1. Called after Ray starts, which sets handlers of its own."""
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._handle)
        self._before[signal.SIGUSR1] = signal.signal(signal.SIGUSR1, self._save)

    def restore(self) -> None:
        """Give the signals back."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def check(self) -> None:
        """Raises StopRequested once the run is to stop."""
        if self.requested:
            raise StopRequested

    @property
    def _out_of_time(self) -> bool:
        # The clock of the job: a machine that slept has less time left, which a monotonic clock would not know.
        return self._end_at is not None and time.time() >= self._end_at

    def _handle(self, number: int, frame: FrameType | None) -> None:
        now = self._clock()
        if self._first is not None and self._first[0] == number and now - self._first[1] < _SAME_S:
            return
        if self._asked:
            os._exit(128 + number)
        self._asked, self._first = True, (number, now)

    def _save(self, number: int, frame: FrameType | None) -> None:
        self.save_requested = True

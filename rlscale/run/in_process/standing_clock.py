"""A clock that stands still while a debugger is open, or while nothing could answer."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class StandingClock:
    """Seconds in which nothing held it. Safe to use from several threads."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._lock = threading.Lock()
        self._holding = 0
        self._stood = 0.0
        self._since = 0.0

    def seconds(self) -> float:
        """The time that counts."""
        with self._lock:
            return (self._since if self._holding else self._now()) - self._stood

    def hold(self) -> None:
        """Stand until `release`; of several holders until the last has released it."""
        with self._lock:
            if not self._holding:
                self._since = self._now()
            self._holding += 1

    def release(self) -> None:
        """Take back one `hold`."""
        with self._lock:
            self._holding -= 1
            if not self._holding:
                self._stood += self._now() - self._since

    @contextmanager
    def standing(self) -> Iterator[None]:
        """Hold it in the block."""
        self.hold()
        try:
            yield
        finally:
            self.release()


class StandingLoop(asyncio.SelectorEventLoop):
    """An event loop by that clock, which stands whenever the loop does: no request is late for a step of training."""

    watched = False
    """By the watchdog of loops: this one stands still whenever its thread does something else."""

    def __init__(self, clock: StandingClock) -> None:
        self._clock = clock
        super().__init__()
        clock.hold()

    def time(self) -> float:
        """See asyncio.AbstractEventLoop.time."""
        return self._clock.seconds()

    def run_forever(self) -> None:
        """See asyncio.AbstractEventLoop.run_forever; `run_until_complete` calls it."""
        self._clock.release()
        try:
            super().run_forever()
        finally:
            self._clock.hold()

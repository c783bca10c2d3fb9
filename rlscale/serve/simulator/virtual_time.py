"""An event loop whose clock jumps: where everybody would sleep, it is later at once.

Whatever runs on asyncio runs on it unchanged and without threads, as long as it takes the time from the loop. The same
program gives the same course of events every time.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable
from concurrent.futures import Executor
from typing import TypeVar, TypeVarTuple

R = TypeVar("R")
Ts = TypeVarTuple("Ts")

_PATIENCE_S = 5.0
"""Real seconds without an event and without a timer, after which nothing will ever happen again."""


class NothingHappens(RuntimeError):
    """Everybody waits for somebody, and no timer is set: a deadlock that in real time would be a hang."""


class VirtualLoop(asyncio.SelectorEventLoop):
    """The loop. Its clock begins at 0 and stands still while anything can be done."""

    virtual = True
    """Its time is not real, which whoever compares it with a real clock has to know."""

    def __init__(self) -> None:
        self._jumping = _JumpingSelector()
        super().__init__(self._jumping)

    def time(self) -> float:
        """Virtual seconds since the loop was made."""
        return self._jumping.now

    def run_in_executor(self, executor: Executor | None, func: Callable[[*Ts], R], *args: *Ts) -> asyncio.Future[R]:
        """Call the function here and now, in no time: with threads the course of events would depend on them."""
        future: asyncio.Future[R] = self.create_future()
        try:
            future.set_result(func(*args))
        except Exception as error:
            future.set_exception(error)
        return future


class _JumpingSelector(selectors.DefaultSelector):
    """Looks for events of the outside world, and where there are none lets the time pass instead of waiting."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            found = super().select(_PATIENCE_S)
            if not found:
                raise NothingHappens(f"nothing happens any more at {self.now:.3f} s: everybody waits for somebody")
            return found
        found = super().select(0)
        if not found:
            self.now += max(timeout, 0.0)
        return found

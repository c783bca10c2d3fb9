"""One time limit for very many calls: `asyncio.timeout` without a timer for each."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable
from dataclasses import dataclass
from typing import Any, TypeVar

T = TypeVar("T")


@dataclass(eq=False, slots=True)
class _Call:
    task: asyncio.Task[Any] | None
    """None once it is over."""
    until: float
    late: bool = False


class Deadlines:
    """Calls that may each take `seconds`: their times are up in the order in which they began."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._calls: deque[_Call] = deque()
        self._timer: asyncio.TimerHandle | None = None

    async def within(self, work: Awaitable[T]) -> T:
        """What the work gives. TimeoutError if it takes too long, which cancels it."""
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None
        call = _Call(task, loop.time() + self._seconds)
        self._calls.append(call)
        if self._timer is None:
            self._timer = loop.call_at(call.until, self._expire)
        cancelled = task.cancelling()
        try:
            return await work
        except asyncio.CancelledError:
            if call.late and task.uncancel() <= cancelled:
                raise TimeoutError from None
            raise
        finally:
            call.task = None
            while self._calls and self._calls[0].task is None:
                self._calls.popleft()

    def _expire(self) -> None:
        """Cancel what is late, and wake up for the next one."""
        loop, self._timer = asyncio.get_running_loop(), None
        while self._calls and (self._calls[0].task is None or self._calls[0].until <= loop.time()):
            call = self._calls.popleft()
            if call.task is not None:
                call.late = True
                call.task.cancel()
        if self._calls:
            self._timer = loop.call_at(self._calls[0].until, self._expire)

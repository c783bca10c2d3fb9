"""Admission of requests to the engines: how many run at once, and whether any may start."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from types import TracebackType


class Admission:
    """`async with admission:` waits, first come first served, until it is open and fewer than `limit` are inside.

    It remembers when somebody was inside, as (start, end) in wall-clock seconds: the time spent generating.
    """

    def __init__(self, limit: int, is_open: bool = True) -> None:
        self._limit = limit
        self._is_open = is_open
        self._inside = 0
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._empty = asyncio.Event()
        self._empty.set()
        self._since = 0.0
        self._intervals: list[tuple[float, float]] = []

    async def __aenter__(self) -> None:
        if self._is_open and self._inside < self._limit and not self._waiting:
            self._enter()
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._leave()  # let in and cancelled at the same moment
            raise

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._leave()

    def open(self) -> None:
        """Let those who wait enter."""
        self._is_open = True
        self._admit()

    async def close(self) -> None:
        """Let nobody enter any more and wait until everybody has left."""
        self._is_open = False
        await self._empty.wait()

    def shut(self) -> None:
        """Let nobody enter any more, without waiting."""
        self._is_open = False

    def intervals(self) -> list[tuple[float, float]]:
        """The times since the last call during which somebody was inside; one that goes on is cut here."""
        if self._inside:
            now = time.time()
            self._intervals.append((self._since, now))
            self._since = now
        found, self._intervals = self._intervals, []
        return found

    def _admit(self) -> None:
        while self._waiting and self._is_open and self._inside < self._limit:
            turn = self._waiting.popleft()
            if not turn.done():
                self._enter()
                turn.set_result(None)

    def _enter(self) -> None:
        if self._inside == 0:
            self._since = time.time()
            self._empty.clear()
        self._inside += 1

    def _leave(self) -> None:
        self._inside -= 1
        self._admit()
        if self._inside == 0:
            self._intervals.append((self._since, time.time()))
            self._empty.set()

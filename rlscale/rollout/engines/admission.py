"""Admission of requests to the engines: how many run at once, and whether any may start."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import Any


class Admission:
    """`async with admission:` waits until it is open and fewer than `limit` are inside.

    First come first served, unless they come with an order (`at`): then the lowest first. It remembers when somebody
    was inside, as (start, end) in wall-clock seconds: the time spent generating.
    """

    def __init__(self, limit: int, is_open: bool = True) -> None:
        self._limit = limit
        self._is_open = is_open
        self._inside = 0
        self._withheld = 0
        self.left = 0
        """How many have left so far."""
        self._waiting: list[tuple[Any, int, asyncio.Future[None]]] = []  # a heap
        self._count = itertools.count()
        self._empty = asyncio.Event()
        self._empty.set()
        self._since = 0.0
        self._intervals: list[tuple[float, float]] = []
        self._heard: Callable[[], None] = lambda: None

    @property
    def limit(self) -> int:
        """How many may be inside."""
        return self._limit

    @limit.setter
    def limit(self, limit: int) -> None:
        """Those who are inside stay, also where they are more."""
        self._limit = limit
        self._admit()
        self._heard()

    @property
    def withheld(self) -> int:
        """Places that nobody takes for now."""
        return self._withheld

    @withheld.setter
    def withheld(self, places: int) -> None:
        self._withheld = places
        self._admit()

    def tell(self, heard: Callable[[], None]) -> None:
        """Call `heard` whenever the limit is another one."""
        self._heard = heard

    @property
    def inside(self) -> int:
        """How many are inside."""
        return self._inside

    def at(self, *order: int) -> AbstractAsyncContextManager[None]:
        """`async with admission.at(3, 1):` enters before all who wait at a higher order, and after those at a lower."""
        return _Turn(self, order)

    async def __aenter__(self) -> None:
        await self.enter(())

    async def enter(self, order: tuple[int, ...]) -> None:
        """Wait for one's turn; whoever enters has to `leave`."""
        if self._has_room and not self._waiting:
            self._enter()
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._waiting, (order, next(self._count), turn))
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.leave()  # let in and cancelled at the same moment
            raise

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.leave()

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

    @property
    def _has_room(self) -> bool:
        return self._is_open and self._inside < self._limit - self._withheld

    def _admit(self) -> None:
        while self._waiting and self._has_room:
            _, _, turn = heapq.heappop(self._waiting)
            if not turn.done():
                self._enter()
                turn.set_result(None)

    def _enter(self) -> None:
        if self._inside == 0:
            self._since = time.time()
            self._empty.clear()
        self._inside += 1

    def leave(self) -> None:
        """Make room for the next one."""
        self._inside -= 1
        self.left += 1
        self._admit()
        if self._inside == 0:
            self._intervals.append((self._since, time.time()))
            self._empty.set()


class _Turn:
    """A way in at a given order, for one at a time and any number of times."""

    def __init__(self, admission: Admission, order: tuple[int, ...]) -> None:
        self._admission, self._order = admission, order

    async def __aenter__(self) -> None:
        await self._admission.enter(self._order)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._admission.leave()

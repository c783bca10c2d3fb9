"""Requests that wait for their answers, so that those of an engine that gives none can be broken off."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Set
from contextlib import asynccontextmanager


class UnderWay:
    """The requests of a client that are under way, each known by the limit of its time, which it does not have yet."""

    def __init__(self) -> None:
        self._waiting: set[asyncio.Timeout] = set()

    @asynccontextmanager
    async def waiting(self) -> AsyncIterator[None]:
        """A request is under way in the block. TimeoutError where it is broken off."""
        async with asyncio.timeout(None) as limit:
            self._waiting.add(limit)
            try:
                yield
            finally:
                self._waiting.discard(limit)

    def now(self) -> Set[asyncio.Timeout]:
        """Those of this moment."""
        return frozenset(self._waiting)

    def break_off(self, requests: Set[asyncio.Timeout]) -> None:
        """End the waiting of those of these that are still under way, as if their time were up."""
        now = asyncio.get_running_loop().time()
        for limit in requests & self._waiting:
            limit.reschedule(now)

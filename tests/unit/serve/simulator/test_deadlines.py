"""A time limit that many calls have in common."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from rlscale.serve.simulator.deadlines import Deadlines
from rlscale.serve.simulator.virtual_time import VirtualLoop


def in_virtual_time(scenario: Callable[[], Awaitable[Any]]) -> Any:
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(scenario())  # type: ignore[arg-type]  # all of them are coroutines


def test_each_call_has_its_time_from_its_own_beginning() -> None:
    async def scenario() -> tuple[list[tuple[str, float]], int]:
        deadlines, ends = Deadlines(10.0), []

        async def one(name: str, begins: float, takes: float) -> None:
            await asyncio.sleep(begins)
            try:
                await deadlines.within(asyncio.sleep(takes))
            except TimeoutError:
                name += " is late"
            ends.append((name, asyncio.get_running_loop().time()))

        await asyncio.gather(one("a", 0, 4), one("b", 1, 30), one("c", 3, 30), one("d", 5, 9))
        return ends, len(deadlines._calls)

    assert in_virtual_time(scenario) == ([("a", 4), ("b is late", 11), ("c is late", 13), ("d", 14)], 0)


def test_a_call_that_is_cancelled_is_cancelled_and_not_late() -> None:
    async def scenario() -> bool:
        task = asyncio.ensure_future(Deadlines(10.0).within(asyncio.sleep(30)))
        await asyncio.sleep(1)
        task.cancel()
        await asyncio.wait([task])
        return task.cancelled()

    assert in_virtual_time(scenario)


def test_what_the_work_raises_is_raised() -> None:
    async def scenario() -> None:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        future.set_exception(ConnectionResetError("broke"))
        await Deadlines(10.0).within(future)

    with pytest.raises(ConnectionResetError, match="broke"):
        in_virtual_time(scenario)

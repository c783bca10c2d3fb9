"""Calls with a time limit, whether they wait for something or not."""

from __future__ import annotations

import asyncio

import pytest

from rlscale.rollout.time_limit import TooLong, within

LOG: list[str] = []


async def at_once() -> int:
    return 1


async def later() -> int:
    await asyncio.sleep(0)
    await asyncio.sleep(0.001)
    return 2


async def hangs() -> None:
    try:
        await asyncio.Event().wait()
    finally:
        LOG.append("let go")


async def fails(*, late: bool) -> None:
    if late:
        await asyncio.sleep(0)
    raise TimeoutError("its own")


def test_a_call_gives_what_it_gives_whether_or_not_it_waits() -> None:
    async def both() -> tuple[int, int, int]:
        return await within(1.0, at_once()), await within(1.0, later()), await within(None, later())

    assert asyncio.run(both()) == (1, 2, 2)


def test_a_call_that_hangs_is_cancelled_and_said_to_have_taken_too_long() -> None:
    LOG.clear()
    with pytest.raises(TooLong):
        asyncio.run(within(0.01, hangs()))
    assert LOG == ["let go"]


@pytest.mark.parametrize("late", [False, True])
def test_a_timeout_of_its_own_is_passed_on(late: bool) -> None:
    with pytest.raises(TimeoutError, match="its own"):
        asyncio.run(within(1.0, fails(late=late)))


def test_whoever_is_cancelled_meanwhile_cancels_the_call() -> None:
    async def main() -> None:
        LOG.clear()
        task = asyncio.create_task(within(None, hangs()))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert task.cancelled()
        assert LOG == ["let go"]

    asyncio.run(main())

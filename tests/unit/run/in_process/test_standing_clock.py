"""Time that does not pass while a debugger is open, or while nothing could answer."""

from __future__ import annotations

import asyncio

import pytest

from rlscale.run.in_process.standing_clock import StandingClock, StandingLoop


class Watch:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_time_stands_until_the_last_who_holds_it_has_let_go() -> None:
    watch = Watch()
    clock = StandingClock(watch)
    watch.now = 101.0
    assert clock.seconds() == 101.0
    with clock.standing():
        watch.now = 151.0
        with clock.standing():
            watch.now = 161.0
        watch.now = 171.0
        assert clock.seconds() == 101.0
    watch.now = 172.0
    assert clock.seconds() == 102.0


def test_a_deadline_does_not_pass_while_the_loop_stands_or_a_debugger_is_open() -> None:
    watch = Watch()
    clock = StandingClock(watch)
    loop = StandingLoop(clock)

    async def looked_at() -> str:
        async with asyncio.timeout(60.0):
            with clock.standing():
                watch.now += 3600.0  # somebody looks at a value
            await asyncio.sleep(0)
            return "in time"

    async def late() -> None:
        async with asyncio.timeout(60.0):
            watch.now += 61.0
            await asyncio.sleep(3600.0)

    try:
        task = loop.create_task(looked_at())
        watch.now += 3600.0  # a step of training
        assert loop.run_until_complete(task) == "in time"
        with pytest.raises(TimeoutError):
            loop.run_until_complete(late())
    finally:
        loop.close()

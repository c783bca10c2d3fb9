"""The watchdog of the event loop: who holds it is said, while it is held."""

from __future__ import annotations

import asyncio
import logging
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import uvloop

from rlscale.rollout.watchdog import LoopWatchdog
from rlscale.serve.simulator.virtual_time import VirtualLoop


def a_reward_that_never_awaits(seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        time.sleep(0.01)


async def held_for(seconds: float) -> None:
    watchdog = LoopWatchdog(late_s=0.2)
    watchdog.start()
    await asyncio.sleep(0.3)
    a_reward_that_never_awaits(seconds)
    await asyncio.sleep(0.1)
    watchdog.stop()


@pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_the_function_that_holds_the_event_loop_is_named(
    loop: Callable[[], asyncio.AbstractEventLoop], caplog: pytest.LogCaptureFixture
) -> None:
    """Ray's actors have a loop of uvloop."""
    with caplog.at_level(logging.ERROR), asyncio.Runner(loop_factory=loop) as runner:
        runner.run(held_for(1.0))
    (message,) = caplog.messages
    assert re.match(r"the event loop has not turned for [\d.]+ s; it is held by a_reward_that_never_awaits \(", message)
    assert "test_watchdog.py" in message


def test_a_loop_that_turns_is_not_reported(caplog: pytest.LogCaptureFixture) -> None:
    async def busy() -> None:
        watchdog = LoopWatchdog(late_s=2.0)
        watchdog.start()
        for _ in range(50):
            await asyncio.sleep(0.01)
        watchdog.stop()

    with caplog.at_level(logging.ERROR):
        asyncio.run(busy())
    assert caplog.messages == []


def test_a_loop_whose_time_is_not_real_is_not_watched() -> None:
    async def begun() -> set[threading.Thread]:
        before = {*threading.enumerate()}
        watchdog = LoopWatchdog()
        watchdog.start()
        running = {*threading.enumerate()}
        watchdog.stop()
        return running - before  # those of other tests may end meanwhile

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        assert runner.run(begun()) == set()


HOLDS_THE_LOCK = """
import asyncio, re
from rlscale.rollout.watchdog import LoopWatchdog

def backtracks_for_ever():
    re.match(r"(a+)+$", "a" * 200 + "b")

async def main():
    LoopWatchdog(late_s=0.2).start()
    await asyncio.sleep(0.1)
    backtracks_for_ever()

asyncio.run(main())
"""


def test_a_regular_expression_that_lets_no_other_thread_run_is_named_all_the_same(tmp_path: Path) -> None:
    log = tmp_path / "rollout.log"
    with log.open("w") as file:
        process = subprocess.Popen([sys.executable, "-c", HOLDS_THE_LOCK], stderr=file)
    try:
        deadline = time.monotonic() + 30
        while "backtracks_for_ever" not in log.read_text() and time.monotonic() < deadline:
            assert process.poll() is None
            time.sleep(0.1)
    finally:
        process.kill()
        process.wait()
    assert "in backtracks_for_ever" in log.read_text()

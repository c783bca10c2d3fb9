"""Calls in threads of their own: how many there are at once, and what is said of those that hang."""

from __future__ import annotations

import asyncio
import logging
import threading

import pytest

from rlscale.envs.workers import own_thread
from rlscale.envs.workers.own_thread import in_own_thread


def test_calls_wait_while_there_are_as_many_threads_as_there_may_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(own_thread, "_MOST", 2)
    lock, now, most = threading.Lock(), 0, 0

    def call() -> int:
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        threading.Event().wait(0.01)
        with lock:
            now -= 1
        return 1

    async def scenario() -> list[int]:
        return await asyncio.gather(*(in_own_thread(call) for _ in range(6)))

    assert asyncio.run(scenario()) == [1] * 6
    assert most == 2


def test_many_that_hang_are_said_once_and_when_all_do_no_further_call_is_made(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(own_thread, "_MOST", 3)
    monkeypatch.setattr(own_thread, "_MANY_HANG", 1)
    held = threading.Event()

    async def scenario() -> int:
        for _ in range(3):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.01):
                    await in_own_thread(held.wait)
        with pytest.raises(RuntimeError, match="3 calls of tools hang; give them time-outs of their own"):
            await in_own_thread(lambda: 5)
        held.set()
        while own_thread._OF_LOOP[asyncio.get_running_loop()].left:
            await asyncio.sleep(0.001)
        return await in_own_thread(lambda: 5)

    with caplog.at_level(logging.WARNING):
        assert asyncio.run(scenario()) == 5
    (said,) = [one.getMessage() for one in caplog.records if "hang" in one.getMessage()]
    assert said.startswith("2 calls of tools hang, each in a thread that cannot be ended")

"""Rewards in threads of this process: right for quick functions and for those that wait for a service."""

from __future__ import annotations

import asyncio
import queue
import threading
from typing import NamedTuple

from rlscale.envs.reward import Reward, RewardCall
from rlscale.envs.workers.calling import Outcome, awaited_outcome_of, outcome_of


class _Call(NamedTuple):
    arguments: RewardCall
    loop: asyncio.AbstractEventLoop
    done: asyncio.Future[Outcome]


class ThreadPool:
    """Daemon threads, started as they are needed. One that overruns its time is left behind and replaced.

    (concurrent.futures would wait for such a thread when the process ends.)
    """

    size = 16

    def __init__(self, reward: Reward) -> None:
        self._reward = reward
        self._calls: queue.SimpleQueue[_Call | None] = queue.SimpleQueue()
        self._threads = 0
        self._running = 0

    async def call(self, arguments: RewardCall, timeout_s: float) -> Outcome:
        """What came of the call; TimeoutError past `timeout_s` seconds."""
        loop = asyncio.get_running_loop()
        call = _Call(arguments, loop, loop.create_future())
        self._running += 1
        if self._running > self._threads:
            self._threads += 1
            threading.Thread(target=self._work, name="reward", daemon=True).start()
        self._calls.put(call)
        try:
            async with asyncio.timeout(timeout_s):
                return await call.done
        except (TimeoutError, asyncio.CancelledError):
            if not call.done.done() or call.done.cancelled():
                self._threads -= 1  # its thread may never come back: another takes its place
            raise
        finally:
            self._running -= 1

    def close(self) -> None:
        """Let the threads end after what they are doing."""
        for _ in range(self._threads):
            self._calls.put(None)

    def _work(self) -> None:
        while (call := self._calls.get()) is not None:
            outcome = outcome_of(self._reward, call.arguments)
            if call.loop.is_closed():
                return
            call.loop.call_soon_threadsafe(_finish, call.done, outcome)
            if call.done.cancelled():
                return  # given up by its caller, who has counted this thread out


def _finish(done: asyncio.Future[Outcome], outcome: Outcome) -> None:
    if not done.done():
        done.set_result(outcome)


class LoopPool:
    """Rewards that are `async def`, awaited on the event loop of the rollout, many at a time."""

    size = 256

    def __init__(self, reward: Reward) -> None:
        self._reward = reward

    async def call(self, arguments: RewardCall, timeout_s: float) -> Outcome:
        """What came of the call; TimeoutError past `timeout_s` seconds."""
        task = asyncio.create_task(awaited_outcome_of(self._reward, arguments), name="reward")
        try:
            done, _ = await asyncio.wait({task}, timeout=timeout_s)
        finally:
            task.cancel()
        if not done:
            raise TimeoutError
        if task.cancelled():
            return Outcome(None, "the reward raised CancelledError")
        return task.result()

    def close(self) -> None:
        """Nothing is kept."""

"""A clock that jumps."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine
from typing import Any

import pytest

from rlscale.serve.simulator.virtual_time import NothingHappens, VirtualLoop


def virtually(main: Coroutine[Any, Any, Any]) -> Any:
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(main)


def test_an_hour_passes_at_once_and_timers_fire_in_their_order() -> None:
    async def after(seconds: float) -> float:
        await asyncio.sleep(seconds)
        return asyncio.get_running_loop().time()

    async def main() -> list[float]:
        return await asyncio.gather(after(3600), after(0.5), after(7))

    began = time.monotonic()
    assert virtually(main()) == [3600, 0.5, 7]
    assert time.monotonic() - began < 60


def test_a_timeout_is_of_virtual_time() -> None:
    async def main() -> float:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(100):
                await asyncio.sleep(101)
        return asyncio.get_running_loop().time()

    assert virtually(main()) == 100


def test_what_would_run_in_a_thread_takes_no_time() -> None:
    async def main() -> tuple[int, float]:
        return await asyncio.to_thread(sum, [1, 2, 3]), asyncio.get_running_loop().time()

    assert virtually(main()) == (6, 0)


def test_an_error_in_a_thread_is_raised() -> None:
    async def main() -> None:
        await asyncio.to_thread(int, "no number")

    with pytest.raises(ValueError, match="no number"):
        virtually(main())


def test_a_deadlock_is_an_error_instead_of_a_hang(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rlscale.serve.simulator.virtual_time._PATIENCE_S", 0.05)

    async def main() -> None:
        await asyncio.sleep(2)
        await asyncio.get_running_loop().create_future()

    loop = VirtualLoop()
    task = loop.create_task(main())
    with pytest.raises(NothingHappens, match=r"at 2\.000 s"):
        loop.run_until_complete(task)
    task.cancel()
    loop.run_until_complete(asyncio.gather(task, return_exceptions=True))
    loop.close()

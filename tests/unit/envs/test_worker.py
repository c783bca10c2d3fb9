"""Rewards in the background: concurrency, time limits, failures, and nothing left behind."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np
import psutil
import pytest

from rlscale.config.schema.reward import RewardConfig
from rlscale.data.sample import Prompt, Sample
from rlscale.envs.reward import RewardFailed
from rlscale.envs.worker import RewardWorker


def odd_reward(response: str, label: Any, info: dict[str, Any]) -> Any:
    """What the response asks for."""
    command, _, argument = response.partition(" ")
    if command == "sleep":
        time.sleep(float(argument))
    if command == "raise":
        raise ValueError(argument)
    if command == "exit":
        os._exit(3)
    if command == "nothing":
        return None
    return float(argument)


def ask(text: str, worker: RewardWorker) -> Awaitable[float]:
    prompt = Prompt(0, "0", np.array([1], np.int32), "label")
    sample = Sample.from_response(prompt, 0, np.array([2], np.int32), None, 0, text=text)
    return worker.score(sample, prompt)


def tells_all(
    response: str, label: Any, info: Any, raw_response: str, *, prompt: str, messages: Any, tokens: Any
) -> int:
    """The answer to all if all is as `test_a_reward_gets_...` gives it."""
    given = (response, label, info, raw_response, prompt, messages, tokens)
    return (
        42
        if given == ("5", 5, {"a": 1}, "<think>5<end>", "2+3=", [{"role": "user", "content": "2+3="}], [8, 5, 9])
        else 0
    )


def run(
    scenario: Callable[[RewardWorker], Awaitable[Any]],
    workers: int,
    timeout_s: float = 10.0,
    reward: str = "odd_reward",
) -> Any:
    async def main() -> Any:
        target = f"{'tests.unit.envs.test_worker' if workers else __name__}.{reward}"
        worker = RewardWorker(RewardConfig(function={"_target_": target}, workers=workers, timeout_s=timeout_s))
        try:
            return await scenario(worker)
        finally:
            worker.close()

    return asyncio.run(main())


@pytest.fixture(params=[0, 2], ids=["threads", "processes"])
def workers(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    # The processes import this module by its path from the repository's root, as they would a user's.
    monkeypatch.syspath_prepend(os.getcwd())
    return request.param


def test_many_samples_are_scored_each_with_its_own_reward(workers: int) -> None:
    async def scenario(worker: RewardWorker) -> list[float]:
        return await asyncio.gather(*[ask(f"give {i}", worker) for i in range(200)])

    assert run(scenario, workers) == [float(i) for i in range(200)]


def test_a_reward_gets_special_tokens_prompt_messages_and_tokens_that_it_asks_for(workers: int) -> None:
    messages = [{"role": "user", "content": "2+3="}]
    prompt = Prompt(0, "0", np.array([1, 2], np.int32), 5, {"a": 1}, "2+3=", messages)
    tokens = np.array([8, 5, 9], np.int32)
    sample = Sample.from_response(prompt, 0, tokens, None, 0, text="5", raw_text="<think>5<end>")
    assert run(lambda worker: worker.score(sample, prompt), workers, reward="tells_all") == 42.0


@pytest.mark.parametrize(
    ("text", "message"),
    [("raise broken", "the reward raised ValueError: broken"), ("nothing", "returned None"), ("give nan", "nan")],
)
def test_a_reward_that_fails_is_no_zero(workers: int, text: str, message: str) -> None:
    with pytest.raises(RewardFailed, match=message):
        run(lambda worker: ask(text, worker), workers)


def test_a_reward_that_takes_too_long_fails_and_the_others_go_on(workers: int) -> None:
    async def scenario(worker: RewardWorker) -> tuple[list[Any], float, list[float]]:
        await asyncio.gather(*[ask("give 0", worker) for _ in range(4)])  # so that the processes have started
        started = time.monotonic()
        late = await asyncio.gather(*[ask("sleep 30", worker) for _ in range(2)], return_exceptions=True)
        waited = time.monotonic() - started
        return late, waited, await asyncio.gather(*[ask(f"give {i}", worker) for i in range(4)])

    late, waited, later = run(scenario, workers, timeout_s=0.5)
    assert [str(error) for error in late] == ["the reward took over reward.timeout_s=0.5 seconds"] * 2
    assert later == [0.0, 1.0, 2.0, 3.0]
    assert 0.5 <= waited < 20.0


def test_slow_rewards_do_not_hold_up_the_event_loop(workers: int) -> None:
    async def scenario(worker: RewardWorker) -> float:
        slow = asyncio.gather(*[ask("sleep 0.3", worker) for _ in range(2)], return_exceptions=True)
        longest, last = 0.0, time.monotonic()
        while not slow.done():
            await asyncio.sleep(0.005)
            longest, last = max(longest, time.monotonic() - last), time.monotonic()
        return longest

    assert run(scenario, workers) < 0.2


def test_a_reward_process_that_dies_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(os.getcwd())

    async def scenario(worker: RewardWorker) -> tuple[list[Any], float]:
        return await asyncio.gather(ask("exit", worker), return_exceptions=True), await ask("give 7", worker)

    died, after = run(scenario, workers=1)
    assert isinstance(died[0], RewardFailed)
    assert after == 7.0


def test_no_reward_process_outlives_its_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(os.getcwd())
    before = {child.pid for child in psutil.Process().children()}
    run(lambda worker: ask("give 1", worker), workers=2)
    assert {child.pid for child in psutil.Process().children()} <= before

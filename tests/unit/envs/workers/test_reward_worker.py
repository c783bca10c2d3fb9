"""Rewards in the background: concurrency, time limits, failures, and nothing left behind."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from rlscale.config.schema.reward_config import RewardConfig
from rlscale.data.sample import Prompt
from rlscale.envs.environment import Action
from rlscale.envs.reward import Reward, RewardFailed
from rlscale.envs.score import Score, info_of
from rlscale.envs.workers import reward_worker
from rlscale.envs.workers.processes import ProcessPool, fitting_workers
from rlscale.envs.workers.reward_worker import Pool, RewardWorker
from rlscale.envs.workers.threads import LoopPool, ThreadPool
from tests.unit.envs.workers import odd_rewards


def ask(text: str, worker: RewardWorker) -> Awaitable[float]:
    prompt = Prompt(0, "0", np.array([1], np.int32), "label")
    return worker.score(Action(text, text, [2]), prompt)


def run(
    scenario: Callable[[RewardWorker], Awaitable[Any]],
    workers: int,
    timeout_s: float = 10.0,
    reward: str = "odd_reward",
    crash_score: float = 0.0,
) -> Any:
    async def main() -> Any:
        function = {"_target_": f"{odd_rewards.__name__}.{reward}"}
        config = RewardConfig(function=function, workers=workers, timeout_s=timeout_s, crash_score=crash_score)
        worker = RewardWorker(config)
        try:
            return await scenario(worker)
        finally:
            worker.close()

    return asyncio.run(main())


@pytest.fixture
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    # The processes import the rewards by their path from the repository's root, as they would a user's.
    monkeypatch.syspath_prepend(os.getcwd())


class KeptPool(ProcessPool):
    """Processes that one reward worker after another is given: starting them takes longer than most tests."""

    def close(self) -> None:
        pass

    def end(self) -> None:
        super().close()


@pytest.fixture(scope="module")
def kept() -> Iterator[Callable[[RewardConfig, Reward], Pool]]:
    """The pool of a configuration; one of processes is the same for the same reward."""
    pools: dict[str, KeptPool] = {}
    ordinary = reward_worker._pool

    def pool(config: RewardConfig, reward: Reward) -> Pool:
        if not config.workers:
            return ordinary(config, reward)
        key = f"{config.workers} {config.function}"
        if key not in pools:
            pools[key] = KeptPool(config.workers, config.function)
        return pools[key]

    yield pool
    for one in pools.values():
        one.end()


@pytest.fixture(params=[0, 2], ids=["threads", "processes"])
def workers(
    request: pytest.FixtureRequest,
    importable: None,
    kept: Callable[[RewardConfig, Reward], Pool],
    monkeypatch: pytest.MonkeyPatch,
) -> int:
    monkeypatch.setattr(reward_worker, "_pool", kept)
    return request.param


def test_many_samples_are_scored_each_with_its_own_reward(workers: int) -> None:
    async def scenario(worker: RewardWorker) -> list[float]:
        return await asyncio.gather(*[ask(f"give {i}", worker) for i in range(200)])

    assert run(scenario, workers) == [float(i) for i in range(200)]


@pytest.mark.parametrize("workers", [2], indirect=True)
def test_a_breakpoint_in_a_process_says_how_to_get_a_terminal(workers: int) -> None:
    with pytest.raises(RewardFailed, match=r"breakpoint\(\) in .*odd_rewards.py:\d+: .*run.in_process=true.*workers=0"):
        run(lambda worker: ask("break", worker), workers)


@pytest.mark.parametrize("workers", [2], indirect=True)
def test_a_process_imports_what_builds_a_reward_and_no_configuration(workers: int) -> None:
    async def scenario(worker: RewardWorker) -> list[float]:
        modules = ("rlscale.data.target", "rlscale.config.schema", "omegaconf", "yaml")
        return [await ask(f"imported {module}", worker) for module in modules]

    assert run(scenario, workers) == [1.0, 0.0, 0.0, 0.0]


def test_a_reward_gets_special_tokens_prompt_messages_and_tokens_that_it_asks_for(workers: int) -> None:
    messages = [{"role": "user", "content": "2+3="}]
    prompt = Prompt(0, "0", np.array([1, 2], np.int32), 5, {"a": 1}, "2+3=", messages)
    action = Action("5", "<think>5<end>", [8, 5, 9])
    assert run(lambda worker: worker.score(action, prompt), workers, reward="tells_all") == 42.0


def test_a_reward_that_fails_is_no_zero(workers: int) -> None:
    async def scenario(worker: RewardWorker) -> list[Any]:
        return await asyncio.gather(
            *[ask(text, worker) for text in ("raise broken", "nothing", "give nan")], return_exceptions=True
        )

    errors = run(scenario, workers)
    assert all(isinstance(error, RewardFailed) for error in errors)
    (trace,) = errors[0].__notes__  # for the log of errors, also from another process
    assert "in odd_reward\n    raise ValueError(argument)" in trace
    assert [str(error) for error in errors] == [
        "the reward raised ValueError: broken",
        "the reward returned None instead of a finite number",
        "the reward returned nan instead of a finite number",
    ]


@pytest.mark.usefixtures("importable")
def test_only_a_response_that_ends_a_working_reward_twice_the_same_way_is_wrong(tmp_path: Path) -> None:
    async def scenario(worker: RewardWorker) -> dict[str, Any]:
        before = (await asyncio.gather(ask("raise first", worker), return_exceptions=True))[0]
        await asyncio.gather(*[ask("give 1", worker) for _ in range(2)])
        texts = (
            "raise broken",
            "exit",
            "offline now",
            "failed no disk",
            f"unsteady {tmp_path}/a",
            f"lucky {tmp_path}/b",
        )
        found = await asyncio.gather(*[ask(text, worker) for text in texts], return_exceptions=True)
        return {"before": before, **{text.partition(" ")[0]: one for text, one in zip(texts, found, strict=True)}}

    found = run(scenario, workers=2, crash_score=-1.0)
    wrong = {name: (float(one), one.crash) for name, one in found.items() if isinstance(one, Score)}
    assert wrong == {
        "raise": (-1.0, "the reward raised ValueError: broken"),
        "exit": (-1.0, "the reward's process ended with exit code 3"),
        "lucky": (0.75, ""),
    }
    assert {name: str(one) for name, one in found.items() if isinstance(one, RewardFailed)} == {
        "before": "the reward raised ValueError: first",  # nothing tells that this reward works at all
        "offline": "the reward raised ConnectionRefusedError: now",
        "failed": "the reward failed: no disk",
        "unsteady": "the reward raised ValueError: the second time",
    }


def test_the_parts_of_a_score_come_back_with_it(workers: int) -> None:
    score = run(lambda worker: ask("parts 0.75", worker), workers)
    assert (score, score.parts, score.crash) == (0.75, {"format": 0.5}, "")
    assert info_of(score) == {"reward_parts": {"format": 0.5}}
    assert info_of(Score(0.0, crash="it hung")) == {"reward_crash": "it hung"}


def test_a_reward_that_blames_the_response_itself_gives_it_the_score_of_a_crash(workers: int) -> None:
    score = run(lambda worker: ask("blame refused", worker), workers, crash_score=-1.0)
    assert (score, score.crash) == (-1.0, "refused")


def test_a_reward_that_takes_too_long_fails_and_the_others_go_on(workers: int) -> None:
    async def scenario(worker: RewardWorker) -> tuple[list[Any], float, list[float]]:
        await asyncio.gather(*[ask("give 0", worker) for _ in range(4)])  # so that the processes have started
        started = time.monotonic()
        late = await asyncio.gather(*[ask("sleep 30", worker) for _ in range(2)], return_exceptions=True)
        waited = time.monotonic() - started
        return late, waited, await asyncio.gather(*[ask(f"give {i}", worker) for i in range(4)])

    late, waited, later = run(scenario, workers, timeout_s=0.5)
    took = "the reward took over reward.timeout_s=0.5 seconds"
    if workers:  # tried again in a fresh process, to the same end: the response is wrong
        assert [(one, one.crash) for one in late] == [(0.0, took)] * 2
    else:
        assert [str(error) for error in late] == [took] * 2
    assert later == [0.0, 1.0, 2.0, 3.0]
    assert 0.5 <= waited < 20.0


def test_slow_rewards_do_not_hold_up_the_event_loop(workers: int) -> None:
    async def scenario(worker: RewardWorker) -> float:
        slow = asyncio.gather(*[ask("sleep 1", worker) for _ in range(2)], return_exceptions=True)
        longest, last = 0.0, time.monotonic()
        while not slow.done():
            await asyncio.sleep(0.005)
            longest, last = max(longest, time.monotonic() - last), time.monotonic()
        return longest

    assert run(scenario, workers) < 0.8


def test_no_reward_process_outlives_its_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(os.getcwd())
    before = {child.pid for child in psutil.Process().children()}
    run(lambda worker: ask("give 1", worker), workers=2)
    assert {child.pid for child in psutil.Process().children()} <= before


@pytest.mark.usefixtures("importable")
@pytest.mark.parametrize(
    ("reward", "workers"),
    [("many_moods", 0), ("patient", 0), ("gives_a_coroutine", 0), ("Patient", 0), ("many_moods", 2), ("Patient", 2)],
)
def test_whatever_a_reward_raises_is_its_failure_at_once(reward: str, workers: int) -> None:
    moods = ("StopIteration", "SystemExit", "KeyboardInterrupt", "GeneratorExit", "CancelledError", "long", "no text")

    async def scenario(worker: RewardWorker) -> tuple[list[Any], float]:
        found = await asyncio.gather(*[ask(mood, worker) for mood in moods], return_exceptions=True)
        return found, await ask("Fraction", worker)

    started = time.monotonic()
    found, after = run(scenario, workers, timeout_s=60.0, reward=reward)
    assert time.monotonic() - started < 40.0
    assert after == 0.25
    assert all(isinstance(error, RewardFailed) for error in found)
    for mood, error in zip(moods[:5], found, strict=False):
        # A coroutine that raises StopIteration raises RuntimeError (PEP 479).
        kind = "RuntimeError" if mood == "StopIteration" and reward != "many_moods" else mood
        assert str(error).startswith(f"the reward raised {kind}")
    assert str(found[5]).endswith("... (1000000 characters)")
    assert len(str(found[5])) < 400
    assert str(found[6]) == "the reward raised NoText: (its text is not available: RuntimeError)"


def test_any_number_will_do_and_anything_else_is_named_in_few_words() -> None:
    async def scenario(worker: RewardWorker) -> list[Any]:
        return await asyncio.gather(*[ask(name, worker) for name in odd_rewards.VALUES], return_exceptions=True)

    found = dict(zip(odd_rewards.VALUES, run(scenario, 0, timeout_s=60.0, reward="many_moods"), strict=True))
    numbers = {name: value for name, value in found.items() if isinstance(value, float)}
    assert numbers == {
        "True": 1.0, "int": 2.0, "numpy": 0.5, "numpy int": 3.0, "numpy bool": 1.0, "array": 0.25, "array of none": 4.0,
        "Decimal": 0.1, "Fraction": 0.25, "tensor": 1.5, "grad": 1.0,
    }  # fmt: skip
    returned = {
        name: str(value).removeprefix("the reward returned ").removesuffix(" instead of a finite number")
        for name, value in found.items()
        if isinstance(value, RewardFailed)
    }
    assert returned == {
        "text": "str '0.5' of length 3",
        "long text": f"str '{'1' * 40}'... of length 10000000",
        "list": "list of length 1",
        "two": "ndarray of shape (2,)",
        "inf": "inf",
        "huge": "an integer too large for a float",
        "complex": "complex 1j",
        "object": "a value of type object",
        "dict": "dict of length 1",
        "bytes": "bytes b'1' of length 1",
        "nan tensor": "Tensor of shape () (nan)",
    }


def test_an_async_reward_that_takes_too_long_fails(workers: int) -> None:
    with pytest.raises(RewardFailed, match=r"took over reward.timeout_s=0\.5 seconds"):
        run(lambda worker: ask("sleep", worker), workers, timeout_s=0.5, reward="patient")


def test_async_rewards_wait_at_the_same_time() -> None:
    async def scenario(worker: RewardWorker) -> float:
        started = time.monotonic()
        await asyncio.gather(*[ask("int", worker) for _ in range(200)])
        return time.monotonic() - started

    assert run(scenario, 0, reward="patient") < 1.9  # one after the other they would take 2 s


def test_a_regular_expression_that_backtracks_for_ever_stops_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(os.getcwd())

    async def scenario(worker: RewardWorker) -> tuple[list[Any], float, float]:
        assert await ask("aa", worker) == 1.0
        caught = asyncio.gather(ask("a" * 200 + "b", worker), return_exceptions=True)
        longest, last = 0.0, time.monotonic()
        while not caught.done():
            await asyncio.sleep(0.005)
            longest, last = max(longest, time.monotonic() - last), time.monotonic()
        return caught.result(), longest, await ask("aa", worker)

    (wrong,), longest, after = run(scenario, 1, timeout_s=1.0, reward="backtracks")
    assert (wrong, wrong.crash) == (0.0, "the reward took over reward.timeout_s=1 seconds")
    assert longest < 0.9
    assert after == 1.0


@pytest.mark.usefixtures("importable")
def test_how_a_reward_process_died_is_said_and_another_takes_its_place() -> None:
    async def scenario(worker: RewardWorker) -> tuple[list[Any], float]:
        died = [*await asyncio.gather(ask("exit", worker), ask("kill", worker), return_exceptions=True)]
        return died, await ask("give 7", worker)

    died, after = run(scenario, workers=1)
    assert all(isinstance(error, RewardFailed) for error in died)
    assert [str(error) for error in died] == [
        "the reward's process ended with exit code 3",
        "the reward's process was killed by signal 9 (SIGKILL)",
    ]
    assert after == 7.0


@pytest.mark.parametrize(
    ("reward", "pool"),
    [
        (f"{odd_rewards.__name__}.odd_reward", ProcessPool),
        ("rlscale.envs.rewards.math.MathAnswer", ProcessPool),
        ("rlscale.envs.rewards.exact.ExactAnswer", ThreadPool),
        ("rlscale.envs.rewards.none.no_reward", ThreadPool),
        (f"{odd_rewards.__name__}.patient", LoopPool),
        (f"{odd_rewards.__name__}.Patient", LoopPool),
    ],
)
def test_a_reward_of_ones_own_has_processes_unless_it_is_async(
    reward: str, pool: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(os.getcwd())
    worker = RewardWorker(RewardConfig(function={"_target_": reward}))
    try:
        assert type(worker._pool) is pool
    finally:
        worker.close()
    assert 2 <= fitting_workers() <= 16

"""The service with refill and overlong shaping: which prompts a batch holds, in whatever order requests come back."""

from __future__ import annotations

import asyncio
import pickle
import random
import zlib
from collections.abc import Callable
from typing import Any

import pytest
from fake_engine import FakeEngine

from rlscale.config.schema.algo_config import OverlongConfig, RefillConfig
from rlscale.config.schema.reward_config import RewardConfig
from rlscale.config.schema.rollout_config import Stale
from rlscale.data.sample import Group
from rlscale.rollout.filters import varied_rewards
from rlscale.rollout.service import RolloutService

Run = Callable[..., Any]
N = 4
"""Groups per iteration of the fixture's spec."""


def coin(response: str, label: Any, info: dict[str, Any]) -> float:
    """0 or 1: about one group of three in four has equal rewards."""
    return float(zlib.crc32(f"{response}|{label}".encode()) % 2)


def mostly_wrong(response: str, label: Any, info: dict[str, Any]) -> float:
    """1 for one response in six: more than half of all groups have equal rewards."""
    return float(zlib.crc32(f"{response}|{label}".encode()) % 6 == 0)


def right(response: str, label: Any, info: dict[str, Any]) -> float:
    return 1.0


def varied(response: str, label: Any, info: dict[str, Any]) -> float:
    return zlib.crc32(response.encode()) / 2**32


def reward(function: Callable[..., float]) -> RewardConfig:
    return RewardConfig(function={"_target_": f"{__name__}.{function.__name__}"}, workers=0)


def dropping(share: float = 1.0) -> RefillConfig:
    return RefillConfig(drop_equal=True, max_dropped=share)


def indices(groups: list[Group]) -> list[int]:
    return [group.prompt.index for group in groups]


def contents(groups: list[Group]) -> list[tuple[list[int], float]]:
    return [(sample.tokens.tolist(), sample.reward) for group in groups for sample in group.samples]


async def iterate(service: RolloutService, iterations: int, first: int = 0) -> list[list[Group]]:
    """The batches of a loop in which the weights do not change, so that a group is the same whenever it is made."""
    batches = []
    await service.resume(first)
    for version in range(first, first + iterations):
        batches.append(await service.next_batch())
        await service.pause()
        await service.resume(version + 1)
    return batches


async def dropped(service: RolloutService) -> int:
    return (await service.stats()).counters["groups_dropped_equal"]


def shuffled(seed: int) -> Callable[[dict[str, Any]], float]:
    stream = random.Random(seed)
    return lambda body: stream.random() * 0.02


def expected_batches(groups: list[Group], cap: int, iterations: int) -> tuple[list[list[int]], int]:
    """Prompts of each batch and groups dropped, one group after another: the definition, without any concurrency."""
    stream = iter(groups)
    batches, lost = [], 0
    for _ in range(iterations):
        good: list[int] = []
        bad: list[int] = []
        while len(good) < N and len(good) + len(bad) < N + cap:
            group = next(stream)
            (good if varied_rewards(group) else bad).append(group.prompt.index)
        short = N - len(good)
        batches.append(sorted(good + bad[:short]))
        lost += len(bad) - short
    return batches, lost


@pytest.fixture(scope="module", params=[coin, mostly_wrong])
def in_order(run: Run, request: pytest.FixtureRequest) -> tuple[Callable[..., float], list[Group]]:
    """A reward, and the groups of 24 batches without refill."""

    async def plain(engine: FakeEngine, service: RolloutService) -> list[Group]:
        return [group for batch in await iterate(service, 24) for group in batch]

    return request.param, run(plain, reward=reward(request.param))


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0, 3.0])
def test_a_batch_holds_the_next_prompts_with_a_signal_up_to_the_cap(
    run: Run, share: float, in_order: tuple[Callable[..., float], list[Group]]
) -> None:
    async def scenario(engine: FakeEngine, service: RolloutService) -> tuple[list[list[Group]], int]:
        engine.delay = shuffled(3)
        return await iterate(service, 5), await dropped(service)

    function, groups = in_order
    wanted, lost = expected_batches(groups, int(share * N), 5)
    assert lost > 0 or share == 0
    batches, counted = run(scenario, reward=reward(function), refill=dropping(share))
    assert [indices(batch) for batch in batches] == wanted
    assert counted == lost
    by_index = {group.prompt.index: group for group in groups}
    for batch in batches:
        assert contents(batch) == contents([by_index[index] for index in indices(batch)])


@pytest.mark.parametrize(("function", "share"), [(mostly_wrong, 1.5), (right, 0.25)])
def test_what_a_batch_holds_does_not_depend_on_the_order_of_completion(
    run: Run, function: Callable[..., float], share: float
) -> None:
    async def scenario(engine: FakeEngine, service: RolloutService, seed: int) -> list[Any]:
        engine.delay = shuffled(seed)
        await service.resume(0)
        found = []
        for version in range(4):
            found.append(contents(await service.next_batch()))
            await service.pause()
            engine.weights = version + 1
            await service.resume(version + 1)
        return [*found, await dropped(service)]

    options = {"reward": reward(function), "refill": dropping(share)}
    runs = [run(lambda e, s, seed=seed: scenario(e, s, seed), **options) for seed in range(3)]
    assert runs[0] == runs[1] == runs[2]
    assert runs[0][-1] > 0


def test_when_all_groups_are_equal_a_batch_holds_the_first_and_costs_the_cap(run: Run) -> None:
    async def scenario(engine: FakeEngine, service: RolloutService) -> tuple[list[int], list[int], dict[str, int], int]:
        await service.resume(0)
        first = await service.next_batch()
        await service.resume(1)
        second = await service.next_batch()
        await asyncio.sleep(0.05)
        return indices(first), indices(second), (await service.stats()).counters, len(engine.requests)

    first, second, counters, requests = run(scenario, reward=reward(right), refill=dropping(0.5))
    assert (first, second) == ([0, 1, 2, 3], [6, 7, 8, 9])
    assert requests == counters["samples_generated"] == 2 * (4 + 2) * 3
    assert counters["groups_dropped_equal"] == 4


def test_without_equal_groups_refill_changes_nothing(run: Run) -> None:
    async def scenario(engine: FakeEngine, service: RolloutService) -> tuple[list[Any], int]:
        return [contents(batch) for batch in await iterate(service, 3)], await dropped(service)

    plain = run(scenario, reward=reward(varied))
    assert run(scenario, reward=reward(varied), refill=dropping()) == plain
    assert plain[1] == 0


def test_a_given_up_group_is_replaced_besides_the_equal_ones(run: Run) -> None:
    async def scenario(engine: FakeEngine, service: RolloutService) -> tuple[list[int], dict[str, int]]:
        engine.fault = lambda body: 400 if body["input_ids"] == engine.requests[0]["input_ids"] else None
        (batch,) = await iterate(service, 1)
        return indices(batch), (await service.stats()).counters

    options = {"max_failure_rate": 1.0, "max_concurrent": 1}
    used, counters = run(scenario, reward=reward(right), refill=dropping(0.5), **options)
    assert used == [1, 2, 3, 4]
    assert (counters["groups_given_up"], counters["groups_dropped_equal"]) == (1, 2)


@pytest.fixture(scope="module")
def undisturbed(run: Run) -> tuple[list[list[Group]], int]:
    """Four batches, and how many groups were dropped for them."""

    async def whole(engine: FakeEngine, service: RolloutService) -> tuple[list[list[Group]], int]:
        return await iterate(service, 4), await dropped(service)

    return run(whole, reward=reward(mostly_wrong), refill=dropping(1.0))


@pytest.mark.parametrize("finished", [0, 3, 8, 14, 17])
def test_a_run_killed_in_the_middle_of_a_batch_goes_on_with_the_same_batches(
    run: Run, undisturbed: tuple[list[list[Group]], int], finished: int
) -> None:
    async def before(engine: FakeEngine, service: RolloutService) -> tuple[bytes, list[list[Group]]]:
        """Two batches; of the third only `finished` requests are answered before the state is saved."""
        await service.resume(0)
        batches = [await service.next_batch()]
        await service.resume(1)
        batches.append(await service.next_batch())
        last = len(engine.requests) + finished
        engine.delay = lambda body: 60.0 if len(engine.requests) > last else 0.0
        await service.resume(2)
        while len(engine.requests) <= last:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.05)
        return pickle.dumps(await service.state_dict()), batches

    async def after(engine: FakeEngine, service: RolloutService, state: bytes) -> tuple[list[list[Group]], int]:
        await service.load_state_dict(pickle.loads(state))
        return await iterate(service, 2, first=2), await dropped(service)

    options = {"reward": reward(mostly_wrong), "refill": dropping(1.0)}
    state, first = run(before, **options)
    second, lost = run(lambda engine, service: after(engine, service, state), **options)
    batches, lost_undisturbed = undisturbed
    assert [contents(batch) for batch in first + second] == [contents(batch) for batch in batches]
    assert lost == lost_undisturbed > 0


def test_groups_set_aside_are_in_the_state(run: Run) -> None:
    async def scenario(engine: FakeEngine, service: RolloutService) -> list[int]:
        slow = 4 * 3
        engine.delay = lambda body: 60.0 if len(engine.requests) > slow else 0.0
        await service.resume(0)
        while len(engine.requests) <= slow:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.05)
        state = await service.state_dict()
        return indices(state["refill"]["groups"])

    assert run(scenario, reward=reward(right), refill=dropping(1.0)) == [0, 1, 2, 3]


def test_a_filled_batch_that_was_not_trained_on_is_handed_out_again(run: Run) -> None:
    async def before(engine: FakeEngine, service: RolloutService) -> tuple[dict[str, Any], list[Group]]:
        await service.resume(0)
        batch = await service.next_batch()
        return await service.state_dict(trained=False), batch

    async def after(engine: FakeEngine, service: RolloutService, state: dict[str, Any]) -> tuple[list[Any], int]:
        await service.load_state_dict(state)
        return await iterate(service, 2), await dropped(service)

    options = {"reward": reward(right), "refill": dropping(0.5)}
    state, taken = run(before, **options)
    (again, following), lost = run(lambda engine, service: after(engine, service, state), **options)
    assert contents(again) == contents(taken)
    assert indices(following) == [6, 7, 8, 9]
    assert lost == 4


@pytest.mark.parametrize("bound", [1, 2])
@pytest.mark.parametrize("share", [0.5, 2.0])
@pytest.mark.parametrize("function", [mostly_wrong, right])
def test_off_policy_batches_are_whole_and_keep_the_staleness_bound(
    run: Run, bound: int, share: float, function: Callable[..., float]
) -> None:
    async def scenario(engine: FakeEngine, service: RolloutService) -> tuple[list[list[Group]], dict[str, int]]:
        engine.delay = shuffled(bound)
        return await iterate(service, 10), (await service.stats()).counters

    batches, counters = run(
        scenario, reward=reward(function), refill=dropping(share), max_staleness=bound, stale=Stale.wait
    )
    used = [index for batch in batches for index in indices(batch)]
    assert len(used) == len(set(used)) == 10 * N
    stale = [version - min(group.min_version for group in batch) for version, batch in enumerate(batches)]
    assert max(stale) <= bound
    assert max(stale) > 0 or function is right  # where all are alike, the older ones are replaced
    assert 0 < counters["groups_dropped_equal"] <= 10 * share * N
    assert counters["groups_too_stale"] == 0


def test_training_rewards_are_shaped_and_keep_the_reward_of_the_task(run: Run) -> None:
    async def scenario(engine: FakeEngine, service: RolloutService) -> tuple[list[Group], Any]:
        evaluation = await service.evaluate(0)
        return [group for batch in await iterate(service, 2) for group in batch], evaluation

    groups, evaluation = run(scenario, reward=reward(right), overlong=OverlongConfig(penalty=0.5, cache_tokens=2))
    penalties = dict.fromkeys(range(5), 0.0) | {5: -0.25, 6: -0.5}  # the limit is 6 tokens
    samples = [sample for group in groups for sample in group.samples]
    assert [sample.reward for sample in samples] == [1.0 + penalties[sample.response_length] for sample in samples]
    assert {sample.reward for sample in samples} == {1.0, 0.75, 0.5}
    assert {sample.reward for sample in samples if sample.truncated} == {0.5}
    assert {sample.info["task_reward"] for sample in samples} == {1.0}
    assert evaluation.mean_reward == 1.0
    assert any(sample.truncated for group in evaluation.groups for sample in group.samples)
    assert not any(sample.info for group in evaluation.groups for sample in group.samples)


def test_a_difference_made_by_shaping_is_a_signal(run: Run) -> None:
    async def scenario(engine: FakeEngine, service: RolloutService) -> list[Group]:
        return [group for batch in await iterate(service, 3) for group in batch]

    options = {"reward": reward(right), "refill": dropping(3.0)}
    groups = run(scenario, overlong=OverlongConfig(penalty=0.5, cache_tokens=3), **options)
    assert all(varied_rewards(group) for group in groups)

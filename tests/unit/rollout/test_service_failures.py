"""The rollout service when requests, answers or rewards fail."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from fake_engine import FakeEngine
from rollout_steps import indices, iterate

from rlscale.config.errors import UserError
from rlscale.config.schema.reward_config import RewardConfig
from rlscale.data.sample import Group
from rlscale.rollout.seeds import request_seed
from rlscale.rollout.service import RolloutService

Run = Callable[..., Any]


def fragile(response: str, label: Any, info: dict[str, Any]) -> float:
    if len(response) > 4:
        raise ValueError("too long for me")
    return 1.0


@pytest.mark.parametrize(("reported", "said"), [("6", "6"), ("default", "None")])
def test_an_engine_with_older_weights_than_the_run_is_not_believed(run: Run, reported: str, said: str) -> None:
    """A restarted engine reports "default": it holds the weights of its folder."""

    async def scenario(engine: FakeEngine, service: RolloutService) -> None:
        engine.weight_version = reported
        await service.resume(7)
        await service.next_batch()

    with pytest.raises(UserError, match=f"the engine holds weight version {said}, not 7"):
        run(scenario)


def test_a_failed_sample_is_replaced_under_another_seed_and_counted(run: Run) -> None:
    bad = request_seed(5, 1, 2)

    async def scenario(engine: FakeEngine, service: RolloutService) -> tuple[list[Group], dict[str, int], list[int]]:
        engine.fault = lambda body: 400 if body["sampling_params"]["sampling_seed"] == bad else None
        (batch,) = await iterate(engine, service, 1)
        return batch, (await service.stats()).counters, engine.seeds()

    batch, counters, seeds = run(scenario)
    assert [len(group.samples) for group in batch] == [3, 3, 3, 3]
    assert counters["failed_requests"] == 1
    assert request_seed(5, 1, 2 + 3) in seeds


def test_a_group_that_cannot_be_filled_is_given_up_for_the_next_prompt(run: Run) -> None:
    async def scenario(engine: FakeEngine, service: RolloutService) -> tuple[list[int], dict[str, int]]:
        bad = {request_seed(5, 1, number) for number in range(2, 100, 3)}
        engine.fault = lambda body: 400 if body["sampling_params"]["sampling_seed"] in bad else None
        (batch,) = await iterate(engine, service, 1)
        return indices(batch), (await service.stats()).counters

    used, counters = run(scenario, max_failure_rate=0.5)
    assert used == [0, 2, 3, 4]
    assert (counters["groups_given_up"], counters["failed_requests"]) == (1, 4)


@pytest.mark.parametrize("value", [None, math.nan, -math.inf])  # null: NaN as some servers send it
def test_an_answer_with_a_logprob_that_is_not_finite_is_a_failed_request(run: Run, value: float | None) -> None:
    bad = request_seed(5, 1, 2)

    async def scenario(engine: FakeEngine, service: RolloutService) -> tuple[list[Group], dict[str, int], list[int]]:
        answer = engine._answer

        def sometimes_bad(body: dict[str, Any]) -> dict[str, Any]:
            given = answer(body)
            if body["sampling_params"]["sampling_seed"] == bad:
                given["meta_info"]["output_token_logprobs"][-1][0] = value
            return given

        engine._answer = sometimes_bad  # type: ignore[method-assign]
        (batch,) = await iterate(engine, service, 1)
        return batch, (await service.stats()).counters, engine.seeds()

    batch, counters, seeds = run(scenario)
    assert [len(group.samples) for group in batch] == [3, 3, 3, 3]
    assert all(np.isfinite(sample.rollout_logprobs).all() for group in batch for sample in group.samples)
    assert counters["failed_requests"] == 1
    assert request_seed(5, 1, 2 + 3) in seeds


def test_too_many_failed_requests_stop_the_run(run: Run) -> None:
    async def scenario(engine: FakeEngine, service: RolloutService) -> None:
        engine.fault = lambda body: 400
        await iterate(engine, service, 1)

    with pytest.raises(UserError, match=r"requests failed, .* rollout.max_failure_rate=0.2 .* HTTP 400"):
        run(scenario)


def test_a_failed_reward_drops_its_sample_and_is_never_a_zero(run: Run) -> None:
    async def scenario(engine: FakeEngine, service: RolloutService) -> tuple[list[Group], dict[str, int]]:
        batches = await iterate(engine, service, 3)
        return [group for batch in batches for group in batch], (await service.stats()).counters

    reward = RewardConfig(function={"_target_": f"{__name__}.fragile"}, workers=0, max_failure_rate=1.0)
    groups, counters = run(scenario, reward=reward)
    assert {sample.reward for group in groups for sample in group.samples} == {1.0}
    assert counters["failed_rewards"] > 0


def test_too_many_failed_rewards_stop_the_run(run: Run) -> None:
    reward = RewardConfig(function={"_target_": f"{__name__}.fragile"}, workers=0, max_failure_rate=0.1)
    with pytest.raises(UserError, match=r"rewards failed, .* reward.max_failure_rate=0.1 .* too long for me"):
        run(lambda engine, service: iterate(engine, service, 20), reward=reward)


def test_prompts_that_are_all_too_long_stop_the_run(run: Run) -> None:
    with pytest.raises(UserError, match=r"raise rollout.max_prompt_tokens"):
        run(lambda engine, service: iterate(engine, service, 1), max_prompt_tokens=2)

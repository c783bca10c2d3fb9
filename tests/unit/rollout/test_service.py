"""The rollout service: order, staleness, pausing, failures, resume."""

from __future__ import annotations

import asyncio
import math
import pickle
import random
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from fake_engine import FakeEngine

from rlscale.config.errors import UserError
from rlscale.config.schema.reward_config import RewardConfig
from rlscale.config.schema.rollout_config import OnSync
from rlscale.data.sample import Group
from rlscale.rollout.rollout_spec import RolloutSpec
from rlscale.rollout.seeds import request_seed
from rlscale.rollout.service import RolloutService

Run = Callable[..., Any]


def indices(groups: list[Group]) -> list[int]:
    return [group.prompt.index for group in groups]


def tokens(groups: list[Group]) -> list[list[int]]:
    return [sample.tokens.tolist() for group in groups for sample in group.samples]


async def iterate(engine: FakeEngine, service: RolloutService, iterations: int, first: int = 0) -> list[list[Group]]:
    """The batches of a training loop whose training takes no time."""
    batches = []
    await service.resume(first)
    for version in range(first, first + iterations):
        batches.append(await service.next_batch())
        await service.pause()
        engine.weights = version + 1
        await service.resume(version + 1)
    return batches


def shuffled(seed: int) -> Callable[[dict[str, Any]], float]:
    stream = random.Random(seed)
    return lambda body: stream.random() * 0.02


def test_a_batch_holds_the_next_prompts_in_order_with_all_samples(run: Run) -> None:
    batches = run(lambda engine, service: iterate(engine, service, 3))
    assert [indices(batch) for batch in batches] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]
    for group in batches[0]:
        assert [sample.index for sample in group.samples] == [0, 1, 2]
        for sample in group.samples:
            assert sample.tokens[: sample.prompt_length].tolist() == group.prompt.tokens.tolist()
            assert sample.text == "".join("0123456789+="[t - 4] for t in sample.tokens[sample.prompt_length :] if t > 3)
            names = ["<pad>", "<|endoftext|>", "<|im_start|>", "<|im_end|>", *"0123456789+="]
            assert sample.raw_text == "".join(names[t] for t in sample.tokens[sample.prompt_length :])
            assert sample.reward == float(sample.text == group.prompt.label)
            assert sample.finish_reason == ("stop" if sample.tokens[-1] == 3 else "length")


def test_on_policy_samples_depend_on_the_seed_and_not_on_the_order_of_completion(run: Run) -> None:
    async def scenario(engine: FakeEngine, service: RolloutService, seed: int) -> list[list[list[int]]]:
        engine.delay = shuffled(seed)
        return [tokens(batch) for batch in await iterate(engine, service, 3)]

    first, second = (run(lambda e, s, seed=seed: scenario(e, s, seed)) for seed in (1, 2))
    assert first == second
    assert len({tuple(sample) for sample in first[0]}) > 8


def test_every_request_carries_its_own_seed(run: Run) -> None:
    async def scenario(engine: FakeEngine, service: RolloutService) -> list[int]:
        await iterate(engine, service, 1)
        return engine.seeds()[:12]

    expected = {request_seed(5, prompt, sample) for prompt in range(4) for sample in range(3)}
    assert set(run(scenario)) == expected
    assert len(expected) == 12


def test_on_policy_nothing_is_generated_between_a_batch_and_the_next_version(run: Run) -> None:
    async def scenario(engine: FakeEngine, service: RolloutService) -> tuple[int, int]:
        await service.resume(0)
        await service.next_batch()
        await asyncio.sleep(0.05)
        before = len(engine.requests)
        await service.pause()
        await service.resume(1)
        return before, len(tokens(await service.next_batch()))

    assert run(scenario) == (12, 12)


@pytest.mark.parametrize("bound", [1, 2])
def test_generation_runs_ahead_of_the_trainer_as_far_as_the_bound_allows(run: Run, bound: int) -> None:
    async def scenario(engine: FakeEngine, service: RolloutService) -> int:
        await service.resume(0)
        await service.next_batch()
        await asyncio.sleep(0.1)
        return len(engine.requests)

    assert run(scenario, max_staleness=bound) == (bound + 1) * 12


@pytest.mark.parametrize("bound", [0, 1, 3])
def test_no_token_is_staler_than_the_bound_and_no_prompt_is_skipped_or_repeated(run: Run, bound: int) -> None:
    async def scenario(engine: FakeEngine, service: RolloutService) -> list[list[Group]]:
        engine.delay = shuffled(bound)
        return await iterate(engine, service, 12)

    batches = run(scenario, max_staleness=bound)
    used = [index for batch in batches for index in indices(batch)]
    assert len(used) == len(set(used)) == 48
    # At most `bound` batches of later prompts can have overtaken one.
    assert max(used) < 48 + 4 * bound
    worst = 0
    for version, batch in enumerate(batches):
        assert indices(batch) == sorted(indices(batch))
        generated = np.concatenate([s.versions[s.loss_mask] for group in batch for s in group.samples])
        assert generated.max() <= version
        worst = max(worst, version - int(generated.min()))
    assert worst <= bound
    assert bound == 0 or worst > 0


def test_pausing_waits_for_requests_under_way_and_sends_none(run: Run) -> None:
    async def scenario(engine: FakeEngine, service: RolloutService) -> tuple[int, int, int]:
        engine.delay = lambda body: 0.1
        await service.resume(0)
        while not engine.running:
            await asyncio.sleep(0.01)
        await service.pause()
        running, sent = engine.running, len(engine.requests)
        await asyncio.sleep(0.15)
        return running, sent, len(engine.requests)

    running, sent, later = run(scenario)
    assert (running, sent, later) == (0, 8, 8)


def test_the_version_that_an_engine_reports_is_stamped_on_its_tokens(run: Run) -> None:
    async def scenario(engine: FakeEngine, service: RolloutService) -> set[int]:
        engine.weight_version = "8"
        await service.resume(7)
        batch = await service.next_batch()
        return {int(v) for group in batch for sample in group.samples for v in sample.versions[sample.loss_mask]}

    assert run(scenario) == {8}


@pytest.mark.parametrize(("reported", "said"), [("6", "6"), ("default", "None")])
def test_an_engine_with_older_weights_than_the_run_is_not_believed(run: Run, reported: str, said: str) -> None:
    """A restarted engine reports "default": it holds the weights of its folder."""

    async def scenario(engine: FakeEngine, service: RolloutService) -> None:
        engine.weight_version = reported
        await service.resume(7)
        await service.next_batch()

    with pytest.raises(UserError, match=f"the engine holds weight version {said}, not 7"):
        run(scenario)


def test_requests_in_flight_stay_under_the_limit(run: Run) -> None:
    async def scenario(engine: FakeEngine, service: RolloutService) -> int:
        engine.delay = lambda body: 0.01
        await iterate(engine, service, 2)
        return engine.most_running

    assert run(scenario, max_concurrent=5) == 5


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


def fragile(response: str, label: Any, info: dict[str, Any]) -> float:
    if len(response) > 4:
        raise ValueError("too long for me")
    return 1.0


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


@pytest.mark.parametrize("bound", [0, 2])
@pytest.mark.parametrize("moment", ["between batches", "in flight"])
def test_a_resumed_run_repeats_and_skips_no_prompt(run: Run, bound: int, moment: str) -> None:
    async def before(engine: FakeEngine, service: RolloutService) -> tuple[bytes, list[list[Group]]]:
        batches = await iterate(engine, service, 2)
        if moment == "in flight":
            engine.delay = lambda body: 5.0
            await asyncio.sleep(0.1)
        return pickle.dumps(await service.state_dict()), batches

    async def after(engine: FakeEngine, service: RolloutService, state: bytes) -> list[list[Group]]:
        await service.load_state_dict(pickle.loads(state))
        engine.weights = 2
        return await iterate(engine, service, 3, first=2)

    state, first = run(before, max_staleness=bound)
    second = run(lambda engine, service: after(engine, service, state), max_staleness=bound)
    used = [index for batch in first + second for index in indices(batch)]
    assert len(used) == len(set(used)) == 20
    if bound == 0:
        whole = run(lambda engine, service: iterate(engine, service, 5))
        assert [tokens(batch) for batch in first + second] == [tokens(batch) for batch in whole]


@pytest.mark.parametrize(("trained", "expected"), [(False, [0, 1, 2, 3]), (True, [4, 5, 6, 7])])
def test_a_batch_that_was_not_trained_on_is_handed_out_again_after_a_resume(
    run: Run, trained: bool, expected: list[int]
) -> None:
    async def before(engine: FakeEngine, service: RolloutService) -> tuple[dict[str, Any], list[Group]]:
        await service.resume(0)
        batch = await service.next_batch()
        return await service.state_dict(trained), batch

    async def after(engine: FakeEngine, service: RolloutService, state: dict[str, Any]) -> list[list[Group]]:
        await service.load_state_dict(state)
        return await iterate(engine, service, 1)

    state, taken = run(before)
    (batch,) = run(lambda engine, service: after(engine, service, state))
    assert indices(batch) == expected
    assert (tokens(batch) == tokens(taken)) == (not trained)


def test_counters_go_on_after_a_resume(run: Run) -> None:
    async def before(engine: FakeEngine, service: RolloutService) -> dict[str, Any]:
        await iterate(engine, service, 2)
        await service.pause()
        return await service.state_dict()

    async def after(engine: FakeEngine, service: RolloutService, state: dict[str, Any]) -> tuple[int, int]:
        await service.load_state_dict(state)
        before = (await service.stats()).counters["samples_generated"]
        await iterate(engine, service, 1, first=2)
        return before, (await service.stats()).counters["samples_generated"]

    state = run(before)
    before_resume, later = run(lambda engine, service: after(engine, service, state))
    assert before_resume >= 24
    assert later >= before_resume + 12


def test_evaluation_works_while_paused_on_its_own_prompts_and_seeds(run: Run) -> None:
    async def scenario(engine: FakeEngine, service: RolloutService) -> tuple[Any, Any, list[int]]:
        first = await service.evaluate(0)
        seeds = engine.seeds()
        await iterate(engine, service, 1)
        await service.pause()
        engine.weights = 0
        return first, await service.evaluate(0), seeds

    first, second, seeds = run(scenario)
    assert (first.prompts, first.samples, first.failures) == (6, 12, 0)
    assert tokens(first.groups) == tokens(second.groups)
    training = {request_seed(5, prompt, sample) for prompt in range(10) for sample in range(3)}
    assert len(set(seeds)) == 12
    assert not set(seeds) & training
    lengths = [s.response_length for group in first.groups for s in group.samples]
    assert first.mean_length == pytest.approx(np.mean(lengths))


def test_engines_stop_at_the_end_of_turn_that_each_kind_of_prompt_has(run: Run, spec: RolloutSpec) -> None:
    """Training's prompts go through a template that ends turns with <|im_start|>; the evaluation's do without one."""
    template = "{% for m in messages %}{{ m.content }}{% if m.role != 'user' %}<|im_start|>{% endif %}{% endfor %}"
    assert spec.eval.data is not None
    plain = replace(spec.eval, data=replace(spec.eval.data, apply_chat_template=False))

    async def scenario() -> list[list[int]]:
        service = RolloutService(replace(spec, chat_template=template, eval=plain))
        async with FakeEngine() as engine:
            await service.start(engine.url, engine.api_key)
            await service.resume(0)
            await service.next_batch()
            await service.evaluate(0)
            await service.close()
            ends = [body["sampling_params"]["stop_token_ids"] for body in engine.requests]
            return [ends[0], ends[-1]]

    assert asyncio.run(scenario()) == [[2], [3]]


def test_failed_samples_of_an_evaluation_are_counted_and_in_no_mean(run: Run) -> None:
    bad = request_seed(5, 2, 1, stream="eval")

    async def scenario(engine: FakeEngine, service: RolloutService) -> Any:
        engine.fault = lambda body: 400 if body["sampling_params"]["sampling_seed"] == bad else None
        return await service.evaluate(0)

    result = run(scenario)
    assert (result.samples, result.failures, result.prompts) == (11, 1, 6)


def test_time_with_requests_under_way_is_reported_as_intervals(run: Run) -> None:
    async def scenario(engine: FakeEngine, service: RolloutService) -> tuple[list[Any], list[Any], float]:
        engine.delay = lambda body: 0.1
        started = time.time()
        await service.resume(0)
        await service.next_batch()
        taken = time.time() - started
        first = (await service.stats()).intervals
        await asyncio.sleep(0.05)
        return first, (await service.stats()).intervals, taken

    first, later, taken = run(scenario, max_concurrent=12)
    assert 0.1 <= sum(end - start for start, end in first) <= taken  # all requests at once, one delay
    assert later == []


def test_a_second_batch_of_one_version_is_refused(run: Run) -> None:
    async def scenario(engine: FakeEngine, service: RolloutService) -> None:
        await service.resume(0)
        await service.next_batch()
        await service.next_batch()

    with pytest.raises(RuntimeError, match="batch of weight version 0 was taken already"):
        run(scenario)


def test_prompts_that_are_all_too_long_stop_the_run(run: Run) -> None:
    with pytest.raises(UserError, match=r"raise rollout.max_prompt_tokens"):
        run(lambda engine, service: iterate(engine, service, 1), max_prompt_tokens=2)


def test_other_ways_of_syncing_are_refused_until_they_exist(spec: RolloutSpec) -> None:
    changed = replace(spec, rollout=replace(spec.rollout, on_sync=OnSync.in_place))
    with pytest.raises(UserError, match=r"rollout.on_sync=in_place is not implemented yet; use wait"):
        RolloutService(changed)

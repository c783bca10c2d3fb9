"""The rollout service: order, staleness, pausing."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from fake_engine import FakeEngine
from rollout_steps import indices, iterate, shuffled, tokens

from rlscale.config.schema.rollout_config import Stale
from rlscale.data.sample import Group
from rlscale.rollout import service as service_module
from rlscale.rollout.engines.client import EngineClient
from rlscale.rollout.seeds import request_seed
from rlscale.rollout.service import RolloutService

Run = Callable[..., Any]


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


def test_as_many_more_requests_are_under_way_as_there_are_engines(run: Run) -> None:
    async def scenario(engine: FakeEngine, service: RolloutService) -> list[int]:
        engine.delay = lambda body: 30.0
        running = []
        await service.resume(0)
        for engines in (1, 3):
            await service.engines_are(engines)
            while service._admission.inside < 2 * engines:
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.05)
            running.append(service._admission.inside)
        return running

    assert run(scenario, max_concurrent=2) == [2, 6]


def test_answers_come_in_parts_as_long_as_all_engines_that_there_are_send_them(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = iter([(True, 0.0), (False, 0.0), (True, 0.0), (True, 5.0)])

    async def all_send_parts(client: EngineClient) -> bool:
        told, after_s = next(answers)
        await asyncio.sleep(after_s)
        return told

    async def scenario(engine: FakeEngine, service: RolloutService) -> list[bool]:
        found = [service._client.in_parts]
        for engines in (2, 1, 2):
            await service.engines_are(engines)
            found.append(service._client.in_parts)
        return found

    monkeypatch.setattr(service_module, "all_send_parts", all_send_parts)
    monkeypatch.setattr(service_module, "_ASKED_S", 0.1)
    assert run(scenario) == [True, False, True, False]


@pytest.mark.parametrize("bound", [1, 2])
def test_generation_runs_ahead_of_the_trainer_as_far_as_the_bound_allows(run: Run, bound: int) -> None:
    async def scenario(engine: FakeEngine, service: RolloutService) -> int:
        await service.resume(0)
        await service.next_batch()
        await asyncio.sleep(0.1)
        return len(engine.requests)

    assert run(scenario, max_staleness=bound, stale=Stale.wait, max_concurrent=100) == (bound + 1) * 12


@pytest.mark.parametrize("bound", [0, 1, 3])
def test_no_token_is_staler_than_the_bound_and_no_prompt_is_skipped_or_repeated(run: Run, bound: int) -> None:
    async def scenario(engine: FakeEngine, service: RolloutService) -> list[list[Group]]:
        engine.delay = shuffled(bound)
        return await iterate(engine, service, 12)

    batches = run(scenario, max_staleness=bound, stale=Stale.wait)
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


def test_requests_in_flight_stay_under_the_limit(run: Run) -> None:
    async def scenario(engine: FakeEngine, service: RolloutService) -> int:
        engine.delay = lambda body: 0.01
        await iterate(engine, service, 2)
        return engine.most_running

    assert run(scenario, max_concurrent=5) == 5


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


def test_weights_that_stay_give_a_batch_per_resume(run: Run) -> None:
    async def scenario(engine: FakeEngine, service: RolloutService) -> list[list[int]]:
        batches = []
        for _ in range(3):  # as in a run that only generates
            await service.resume(0)
            batches.append(indices(await service.next_batch()))
        return batches

    assert run(scenario) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]

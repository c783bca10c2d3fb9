"""The rollout service saved and resumed: no prompt twice, none lost, counters that go on."""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fake_engine import FakeEngine
from rollout_steps import indices, iterate, tokens

from rlscale.data.sample import Group
from rlscale.rollout.service import RolloutService

Run = Callable[..., Any]


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


def test_a_killed_run_generates_only_what_was_under_way_and_has_the_batch_of_an_undisturbed_one(
    run: Run, tmp_path: Path
) -> None:
    async def killed(engine: FakeEngine, service: RolloutService) -> None:
        engine.delay = lambda body: 60.0 if len(engine.requests) > 7 else 0.0  # two groups of three, and a third of one
        await service.resume(0)
        while (await service.stats()).counters["prompts/ready"] < 2:
            await asyncio.sleep(0.01)

    async def after(engine: FakeEngine, service: RolloutService) -> tuple[list[list[Group]], dict[str, int]]:
        await service.resume(0)
        return [await service.next_batch()], (await service.stats()).counters

    (undisturbed,) = run(lambda engine, service: iterate(engine, service, 1))
    run(killed, journal=str(tmp_path))
    (batch,), counters = run(after, journal=str(tmp_path))
    assert (indices(batch), tokens(batch)) == ([0, 1, 2, 3], tokens(undisturbed))
    assert (counters["groups_recovered"], counters["samples_generated"]) == (2, 6)
    recovered = sum(sample.response_length for group in batch[:2] for sample in group.samples)
    assert (counters["tokens_recovered"], counters["tokens/trained"]) == (recovered, counters["tokens/received"])

"""Evaluations by the rollout service: prompts and seeds of their own, also while it is paused."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from fake_engine import FakeEngine
from rollout_steps import iterate, tokens

from rlscale.rollout.rollout_spec import RolloutSpec
from rlscale.rollout.seeds import request_seed
from rlscale.rollout.service import RolloutService

Run = Callable[..., Any]


def test_evaluation_works_while_paused_on_its_own_prompts_and_seeds(run: Run) -> None:
    async def scenario(engine: FakeEngine, service: RolloutService) -> tuple[Any, Any, list[int]]:
        first = await service.evaluate(0)
        seeds = engine.seeds()
        await iterate(engine, service, 1)
        await service.pause()
        engine.weights = 0
        return first, await service.evaluate(1), seeds

    first, second, seeds = run(scenario)
    assert (first.prompts, first.samples, first.failures) == (6, 12, 0)
    assert tokens(first.groups) == tokens(second.groups)
    training = {request_seed(5, prompt, sample) for prompt in range(10) for sample in range(3)}
    assert len(set(seeds)) == 12
    assert not set(seeds) & training
    lengths = [s.response_length for group in first.groups for s in group.samples]
    assert first.mean_length == pytest.approx(np.mean(lengths))


def test_an_evaluation_whose_engines_got_other_weights_meanwhile_is_an_error(run: Run) -> None:
    async def scenario(engine: FakeEngine, service: RolloutService) -> None:
        engine.weight_version = "1"
        with pytest.raises(RuntimeError, match=r"^an evaluation of weight version 0 got tokens of version 1: "):
            await service.evaluate(0)

    run(scenario)


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

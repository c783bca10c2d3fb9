"""The rollout service on several sources: rewards, bounds, evaluation sets, and a resume that goes on with each."""

from __future__ import annotations

import asyncio
import pickle
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_engine import FakeEngine
from rollout_steps import indices, iterate, tokens

from rlscale.config.schema.data_config import ArithmeticData, MixtureData, SourceConfig
from rlscale.config.schema.eval_config import EvalSetConfig
from rlscale.config.schema.reward_config import RewardConfig
from rlscale.data.batches.batch import Batch
from rlscale.data.configured_encoder import build_encoder
from rlscale.data.sample import Group
from rlscale.data.tokens.character_tokenizer import character_tokenizer
from rlscale.rollout.rollout_spec import RolloutSpec
from rlscale.rollout.service import RolloutService

CONSTANT = """
def seven(response, label, info):
    return 7.0


def nine(response, label, info):
    return 9.0
"""


@pytest.fixture
def mixed(spec: RolloutSpec, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> RolloutSpec:
    """Three of four prompts are large sums; small ones are worth 7 and have at most 2 tokens."""
    (tmp_path / "constant_reward.py").write_text(CONSTANT)
    monkeypatch.syspath_prepend(tmp_path)

    def reward(name: str) -> RewardConfig:
        return RewardConfig(function={"_target_": f"constant_reward.{name}"}, workers=0)

    small = SourceConfig(data=ArithmeticData(max_number=8), reward=reward("seven"), max_response_tokens=2)
    large = SourceConfig(data=ArithmeticData(max_number=20), weight=3.0)
    held_out = ArithmeticData(max_number=8, split="held_out")
    sets = {
        "small": EvalSetConfig(data=held_out, prompts=2, samples_per_prompt=3, pass_k=[1, 3], max_response_tokens=1),
        "own": EvalSetConfig(data=held_out, prompts=2, reward=reward("nine"), success_reward=8.0),
    }
    data = MixtureData(sources={"small": small, "large": large})
    return replace(spec, data=data, eval=replace(spec.eval, sets=sets))


async def serving(spec: RolloutSpec, scenario: Any) -> Any:
    service = RolloutService(spec)
    resume = service.resume
    async with FakeEngine() as engine:

        async def sync_and_resume(version: int) -> None:
            engine.synced = str(version)
            await resume(version)

        service.resume = sync_and_resume  # type: ignore[method-assign]  # as the run does
        await service.start(engine.url, engine.api_key)
        try:
            return await scenario(engine, service)
        finally:
            await service.close()


def test_each_source_has_its_share_its_reward_and_its_bound(mixed: RolloutSpec) -> None:
    batches = asyncio.run(serving(mixed, lambda engine, service: iterate(engine, service, 3)))
    groups = [group for batch in batches for group in batch]
    assert Counter(group.prompt.source for group in groups) == {"small": 3, "large": 9}
    for group in groups:
        small = group.prompt.source == "small"
        assert all((sample.reward == 7.0) == small for sample in group.samples)
        assert all(sample.response_length <= (2 if small else 6) for sample in group.samples)
    assert max(sample.response_length for group in groups for sample in group.samples) > 2


def test_each_source_is_sampled_from_what_it_says(mixed: RolloutSpec) -> None:
    async def scenario(engine: FakeEngine, service: RolloutService) -> Counter[tuple[int, float, Any]]:
        await iterate(engine, service, 3)
        asked = [(request, request["sampling_params"]) for request in engine.requests]
        return Counter(
            (sampling["max_new_tokens"], sampling.get("top_p", 1.0), request.get("return_sampling_mask"))
            for request, sampling in asked
        )

    data = mixed.data
    assert isinstance(data, MixtureData)
    small = replace(data.sources["small"], top_p=1.0)
    rollout = replace(mixed.rollout, top_p=0.5, max_failure_rate=1.0)
    spec = replace(mixed, rollout=rollout, data=replace(data, sources=data.sources | {"small": small}))
    # This engine cannot name words, which its answers are refused for: batches are of the small source alone.
    assert set(asyncio.run(serving(spec, scenario))) == {(2, 1.0, None), (6, 0.5, True)}


def test_each_source_ends_as_its_own_template_and_its_own_tokens_say(mixed: RolloutSpec, tmp_path: Path) -> None:
    async def scenario(engine: FakeEngine, service: RolloutService) -> set[tuple[int, ...]]:
        await iterate(engine, service, 1)
        asked = [request["sampling_params"] for request in engine.requests]
        return {(sampling["max_new_tokens"], *sampling["stop_token_ids"]) for sampling in asked}

    data = mixed.data
    assert isinstance(data, MixtureData)
    tokenizer = character_tokenizer("0123456789+=", 64)
    tokenizer.eos_token = "<|endoftext|>"  # at which a response ends that no template is for
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    raw = replace(data.sources["small"], data=ArithmeticData(max_number=8, apply_chat_template=False))
    large = replace(data.sources["large"], stop_token_ids=[9])
    sources = replace(data, sources={"small": raw, "large": large})
    spec = replace(mixed, data=sources, tokenizer_folder=str(tmp_path / "tokenizer"))
    encoder = build_encoder(spec.tokenizer_folder, spec.data, 100)
    eos, end = encoder.ends["small"], encoder.ends["large"]
    assert eos != end
    assert asyncio.run(serving(spec, scenario)) == {(2, eos), (6, 9, end)}


def test_every_sample_of_a_batch_says_the_temperature_of_its_source(mixed: RolloutSpec) -> None:
    async def scenario(engine: FakeEngine, service: RolloutService) -> list[Group]:
        (batch,) = await iterate(engine, service, 1)
        return batch

    data = mixed.data
    assert isinstance(data, MixtureData)
    warm = replace(data, sources=data.sources | {"small": replace(data.sources["small"], temperature=1.5)})
    groups = asyncio.run(serving(replace(mixed, data=warm), scenario))
    column = Batch.from_groups(groups).column("relative_temperature")
    expected = [
        np.where(sample.loss_mask, 1.5 if group.prompt.source == "small" else 1.0, 1.0)
        for group in groups
        for sample in group.samples
    ]
    np.testing.assert_array_equal(column, np.concatenate(expected))
    assert {1.0, 1.5} == {*column.tolist()}


def test_evaluation_sets_have_their_own_samples_bounds_and_rewards(mixed: RolloutSpec) -> None:
    async def scenario(engine: FakeEngine, service: RolloutService) -> list[Any]:
        return [await service.evaluate(0), await service.evaluate(0, "small"), await service.evaluate(0, "own")]

    first, small, own = asyncio.run(serving(mixed, scenario))
    assert (first.prompts, first.samples) == (6, 12)
    assert (small.prompts, small.samples, small.mean_length, small.mean_reward) == (2, 6, 1.0, 7.0)  # its source's
    assert sorted(small.pass_at_k) == [1, 3]
    assert (own.samples, own.mean_reward, own.pass_at_1) == (4, 9.0, 1.0)


def test_a_resumed_mixture_goes_on_with_the_next_prompts_of_every_source(mixed: RolloutSpec) -> None:
    async def before(engine: FakeEngine, service: RolloutService) -> tuple[bytes, list[list[Group]]]:
        batches = await iterate(engine, service, 2)
        return pickle.dumps(await service.state_dict()), batches

    async def after(engine: FakeEngine, service: RolloutService, state: bytes) -> list[list[Group]]:
        await service.load_state_dict(pickle.loads(state))
        engine.weights = 2
        return await iterate(engine, service, 2, first=2)

    state, first = asyncio.run(serving(mixed, before))
    second = asyncio.run(serving(mixed, lambda engine, service: after(engine, service, state)))
    whole = asyncio.run(serving(mixed, lambda engine, service: iterate(engine, service, 4)))
    assert [indices(batch) for batch in first + second] == [indices(batch) for batch in whole]
    assert [tokens(batch) for batch in first + second] == [tokens(batch) for batch in whole]

"""The rollout service with `trainer.routing_replay=rollout`: samples bring the experts that the engine chose."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_engine import FakeEngine, encoded, experts_by_place

from rlscale.config.composition.compose import compose
from rlscale.config.errors import UserError
from rlscale.data.batches.batch import Batch
from rlscale.data.folders.model_folder import ensure_model_folder
from rlscale.data.sample import Group
from rlscale.rollout.engines.routed_experts import ExpertSizes
from rlscale.rollout.rollout_spec import RolloutSpec
from rlscale.rollout.service import RolloutService

Run = Callable[..., Any]

SIZES = ExpertSizes(layers=3, top_k=2, experts=6)


async def first_batch(engine: FakeEngine, service: RolloutService) -> list[Group]:
    engine.routed = lambda tokens: encoded(experts_by_place(tokens))
    await service.resume(0)
    return await service.next_batch()


def experts_of(groups: list[Group]) -> list[Any]:
    return [sample.routed_experts for group in groups for sample in group.samples]


def test_every_sample_has_the_experts_of_its_inputs_and_none_for_its_last_token(run: Run) -> None:
    groups = run(first_batch, experts=SIZES)
    samples = [sample for group in groups for sample in group.samples]
    assert len(samples) == 12
    for sample in samples:
        assert sample.routed_experts.dtype == np.int16
        assert sample.routed_experts[:-1].tolist() == experts_by_place(len(sample.tokens) - 1).tolist()
        assert (sample.routed_experts[-1] == -1).all()
    assert Batch.from_groups(groups).column("routed_experts").shape[1:] == (3, 2)


def test_evaluations_do_not_ask_for_experts_and_nobody_does_without_replay(run: Run) -> None:
    async def scenario(engine: FakeEngine, service: RolloutService) -> tuple[list[Any], list[Any], list[Any]]:
        groups = await first_batch(engine, service)
        await service.pause()
        training = len(engine.requests)
        evaluated = await service.evaluate(0)
        asked = [body.get("return_routed_experts") for body in engine.requests]
        return asked[:training], asked[training:], experts_of(groups) + experts_of(evaluated.groups)

    training, evaluating, found = run(scenario, experts=SIZES)
    assert (set(training), set(evaluating)) == ({True}, {None})
    assert [experts is None for experts in found] == [False] * 12 + [True] * 12
    training, evaluating, found = run(scenario)
    assert set(training) | set(evaluating) == {None}
    assert [experts is None for experts in found] == [True] * 24


def test_a_saved_batch_comes_back_with_its_experts(run: Run) -> None:
    async def before(engine: FakeEngine, service: RolloutService) -> tuple[bytes, list[Group]]:
        groups = await first_batch(engine, service)
        return pickle.dumps(await service.state_dict(trained=False)), groups

    async def after(engine: FakeEngine, service: RolloutService, state: bytes) -> list[Group]:
        await service.load_state_dict(pickle.loads(state))
        return await first_batch(engine, service)

    state, saved = run(before, experts=SIZES)
    loaded = run(lambda engine, service: after(engine, service, state), experts=SIZES)
    for ours, theirs in zip(experts_of(loaded), experts_of(saved), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_engines_that_do_not_record_their_choice_stop_the_run_with_what_to_change(run: Run) -> None:
    async def scenario(engine: FakeEngine, service: RolloutService) -> None:
        await service.resume(0)
        await service.next_batch()

    with pytest.raises(
        UserError, match=r"requests failed, .* routed experts: the answer has none; the engine must be started by"
    ):
        run(scenario, experts=SIZES)


def test_the_sizes_are_those_of_the_models_folder(tmp_path: Path) -> None:
    experts = {"num_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "norm_topk_prob": True}
    sizes = {"model_type": "qwen3_moe", "num_hidden_layers": 3, "hidden_size": 32, "head_dim": 8, **experts}
    architecture = [f"model.create.architecture.{key}={value}" for key, value in experts.items()]
    architecture += [f"model.create.architecture.{key}={sizes[key]}" for key in sizes if key not in experts]
    config = compose(None, [*architecture, "trainer.routing_replay=rollout"])
    folder = ensure_model_folder(config.model, tmp_path)
    assert RolloutSpec.of(config, folder).experts == SIZES
    without = replace(config, trainer=replace(config.trainer, routing_replay=type(config.trainer.routing_replay).none))
    assert RolloutSpec.of(without, folder).experts is None

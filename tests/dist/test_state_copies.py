"""Ranks that begin with copies of others' state are what those were."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import driven
import numpy as np
import pytest
import state_scenarios
from rank_pool import RankPool
from training_data import divide_for, make_batch, make_spec

from rlscale.config.schema.lora_config import LoraConfig
from rlscale.config.schema.model_config import DType
from rlscale.config.schema.optim_config import OptimConfig, Schedule
from rlscale.config.schema.trainer_config import TrainerConfig
from rlscale.trainer.trainer_spec import TrainerSpec

OPTIM = OptimConfig(lr=1e-2, warmup_steps=1, schedule=Schedule.cosine)


def peers_with_kept_versions(models: dict[str, Path]) -> TrainerSpec:
    return make_spec(models["dense"], parallel={"data": 2}, dtype=DType.float16, optim=OPTIM, kept_versions=2)


def peers_with_a_critic(models: dict[str, Path]) -> TrainerSpec:
    algo = driven.shipped("ppo")
    return driven.spec_of(algo, models, parallel={"context": 2}, dtype=DType.bfloat16, optim=OPTIM)


def peers_with_adapters(models: dict[str, Path]) -> TrainerSpec:
    spec = make_spec(models["dense"], parallel={"data": 2}, optim=OPTIM)
    return replace(spec, model=replace(spec.model, lora=LoraConfig(rank=4)))


def ranks_of_which_none_is_another(models: dict[str, Path]) -> TrainerSpec:
    parallel, trainer = {"expert": 2, "data": 2}, TrainerConfig(distributed_optimizer=True)
    return make_spec(models["moe"], parallel=parallel, dtype=DType.bfloat16, optim=OPTIM, trainer=trainer)


@pytest.mark.parametrize(
    ("make", "keys"),
    [
        (peers_with_kept_versions, 1),
        (peers_with_a_critic, 1),
        (peers_with_adapters, 1),
        (ranks_of_which_none_is_another, 2),
    ],
)
def test_ranks_go_on_from_the_parts_that_peers_have_copied_bit_by_bit(
    make: Any, keys: int, pool: RankPool, models: dict[str, Path]
) -> None:
    spec = make(models)
    iterations = [divide_for(make_batch(spec.algo, seed=seed), spec) for seed in range(4)]
    straight = pool.run(state_scenarios.train_and_copy_halfway, spec, iterations, world_size=2)
    copies = [(rank["key"], rank["copy"]) for rank in straight]
    assert len({key for key, _ in copies}) == keys
    if keys == 1:  # each has copied half of it
        assert not set(copies[0][1][1]) & set(copies[1][1][1])
    others = pool.run(state_scenarios.go_on, spec, iterations[2:], copies, world_size=2)
    for number, (before, after) in enumerate(zip(straight, others, strict=True)):
        assert after["steps"] > 0
        own = [part for key, (_, part) in copies if key == copies[number][0]]
        assert_same({name: array for part in own for name, array in part.items()}, after["again"])
        assert_same(before["weights"], after["weights"])
        for name in ("loss", "lr", "grad_norm", "skipped_in_a_row"):
            assert before["metrics"][name] == after["metrics"][name], name


def assert_same(before: dict[str, np.ndarray], after: dict[str, np.ndarray]) -> None:
    assert before.keys() == after.keys()
    for name, value in before.items():
        np.testing.assert_array_equal(after[name], value, err_msg=name)

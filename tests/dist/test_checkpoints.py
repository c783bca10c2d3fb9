"""A trainer that is stopped and started again from its checkpoint is the trainer that went on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scenarios
from rank_pool import RankPool
from training_data import divide, make_batch, make_spec

from rlscale.config.schema.optim import OptimConfig, Schedule
from rlscale.config.schema.trainer import TrainerConfig

LAYOUTS: list[tuple[str, dict[str, Any], bool]] = [
    ("dense", {}, False),
    ("dense", {"tensor": 2, "sequence": True}, False),
    ("dense", {"data": 2}, True),
    ("dense", {"pipeline": 2}, False),
    ("moe", {"expert": 2, "data": 2}, True),
]


@pytest.mark.parametrize(("model", "parallel", "distributed_optimizer"), LAYOUTS)
def test_resumed_training_gives_the_same_bits(
    model: str,
    parallel: dict[str, Any],
    distributed_optimizer: bool,
    pool: RankPool,
    models: dict[str, Path],
    tmp_path: Path,
) -> None:
    optim = OptimConfig(lr=1e-2, warmup_steps=1, schedule=Schedule.cosine)
    trainer = TrainerConfig(distributed_optimizer=distributed_optimizer)
    spec = make_spec(models[model], parallel=parallel, optim=optim, trainer=trainer)
    iterations = [divide(make_batch(spec.algo, seed=seed), spec.data_parallel) for seed in range(4)]
    folder, world_size = str(tmp_path / "saved"), 2 if parallel else 1
    straight = pool.run(scenarios.train_and_save_halfway, spec, iterations, folder, world_size=world_size)
    resumed = pool.run(scenarios.resume, spec, iterations[2:], folder, world_size=world_size)
    for before, after in zip(straight, resumed, strict=True):
        assert after["steps"] == 2
        for name, weight in before["weights"].items():
            np.testing.assert_array_equal(after["weights"][name], weight, err_msg=name)
        assert before["metrics"]["lr"] == after["metrics"]["lr"]
        assert before["metrics"]["loss"] == after["metrics"]["loss"]


def test_checkpoint_of_one_layout_is_read_by_another(pool: RankPool, models: dict[str, Path], tmp_path: Path) -> None:
    one = make_spec(models["dense"])
    two = make_spec(models["dense"], parallel={"tensor": 2})
    iterations = [divide(make_batch(one.algo, seed=seed), 1) for seed in range(4)]
    folder = str(tmp_path / "saved")
    straight = pool.run(scenarios.train_and_save_halfway, one, iterations, folder, world_size=1)[0]
    resumed = pool.run(scenarios.resume, two, iterations[2:], folder, world_size=2)[0]
    for name, weight in straight["weights"].items():
        np.testing.assert_allclose(resumed["weights"][name], weight, atol=5e-5, err_msg=name)


def test_checkpoint_before_the_first_step_can_be_resumed(
    pool: RankPool, models: dict[str, Path], tmp_path: Path
) -> None:
    spec, folder = make_spec(models["dense"]), str(tmp_path / "saved")
    iterations = [divide(make_batch(spec.algo), 1)]
    straight = pool.run(scenarios.train_and_save_halfway, spec, iterations, folder, world_size=1)[0]
    resumed = pool.run(scenarios.resume, spec, iterations, folder, world_size=1)[0]
    assert resumed["steps"] == 0
    for name, weight in straight["weights"].items():
        np.testing.assert_array_equal(resumed["weights"][name], weight, err_msg=name)


def test_folder_without_a_checkpoint_is_refused_by_its_name(
    pool: RankPool, models: dict[str, Path], tmp_path: Path
) -> None:
    from rank_pool import RankFailed

    with pytest.raises(RankFailed, match=r"UserError: .*/nothing is no trainer checkpoint"):
        pool.run(scenarios.resume, make_spec(models["dense"]), [], str(tmp_path / "nothing"), world_size=1)


def test_distributed_optimizer_with_overlap_gives_the_weights_of_one_rank(
    pool: RankPool, models: dict[str, Path]
) -> None:
    one = make_spec(models["dense"])
    iterations = [divide(make_batch(one.algo, seed=seed), 1) for seed in range(2)]
    expected = pool.run(scenarios.train, one, iterations, world_size=1)[0]
    trainer = TrainerConfig(distributed_optimizer=True, ddp={"overlap_grad_reduce": True, "overlap_param_gather": True})
    two = replace(one, parallel=replace(one.parallel, data=2), trainer=trainer, data_parallel=2)
    iterations = [divide(make_batch(one.algo, seed=seed), 2) for seed in range(2)]
    for result in pool.run(scenarios.train, two, iterations, world_size=2):
        assert result["metrics"][1]["grad_norm"] == pytest.approx(expected["metrics"][1]["grad_norm"], rel=1e-5)
        for name, weight in expected["weights"].items():
            np.testing.assert_allclose(result["weights"][name], weight, atol=5e-5, err_msg=name)

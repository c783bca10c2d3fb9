"""Training in float16: a factor of the loss is looked for, and no step is lost over it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from layout_matrix import OVERLAPS
from rank_pool import RankPool
from scenarios import resume, train, train_and_save_halfway
from training_data import ALGORITHMS, divide, make_batch, make_spec

from rlscale.config.schema.model_config import DType
from rlscale.config.schema.optim_config import OptimConfig
from rlscale.config.schema.trainer_config import TrainerConfig
from rlscale.data.batches.rank_shard import RankShard

TOO_LARGE = 2.0**20
"""Some halvings above what fits these models, each of which costs the passes of a step."""
EXPERTS = {"expert": 2, "data": 2}


def spec_of(model: Path, dtype: DType = DType.float16, **options: Any) -> Any:
    scales = {"initial_loss_scale": options.pop("scale", None), "min_loss_scale": options.pop("least", None)}
    megatron = {name: scale for name, scale in scales.items() if scale is not None}
    optim = OptimConfig(lr=1e-3, eps=1e-3, clip_grad=0.0, megatron=megatron)
    return make_spec(model, "grpo_kl", dtype=dtype, optim=optim, **options)


def parts_of(count: int, data_parallel: int = 1) -> list[list[RankShard]]:
    return [divide(make_batch(ALGORITHMS["grpo_kl"], seed=seed), data_parallel) for seed in range(count)]


def not_a_number(parts: list[list[RankShard]]) -> list[list[RankShard]]:
    """The same, but the loss of one token in the last iteration is none."""
    *others, last = parts
    broken = []
    for part in last:
        advantages = part.batch.column("advantages").copy()
        advantages[np.flatnonzero(part.batch.column("loss_mask"))[:1]] = np.nan
        broken.append(replace(part, batch=part.batch.with_column("advantages", advantages)))
    return [*others, broken]


def assert_same_bits(ours: dict[str, np.ndarray], theirs: dict[str, np.ndarray]) -> None:
    assert ours.keys() == theirs.keys()
    for name in ours:
        np.testing.assert_array_equal(ours[name], theirs[name], err_msg=name)


@pytest.mark.parametrize(
    ("kind", "parallel", "sharded"),
    [("dense", {}, False), ("moe", EXPERTS, False), ("moe", EXPERTS, True), ("tied", {"pipeline": 2}, False)],
)
def test_overflowing_passes_are_made_again_until_the_factor_fits(
    kind: str, parallel: dict[str, int], sharded: bool, pool: RankPool, models: dict[str, Path]
) -> None:
    iterations = parts_of(2, parallel.get("data", 1))
    world = max([1, *parallel.values()])
    trainer = TrainerConfig(distributed_optimizer=sharded, ddp=dict(OVERLAPS) if sharded else {})
    options: dict[str, Any] = {"parallel": parallel, "trainer": trainer}
    found, *others = pool.run(
        train, spec_of(models[kind], scale=TOO_LARGE, **options), iterations, False, world_size=world
    )
    first, last = found["metrics"]
    assert first["overflows"] == np.log2(TOO_LARGE / first["loss_scale"]) > 1
    assert first["skipped_steps"] == last["skipped_steps"] == 0
    assert np.isfinite(last["loss"])
    for other in others:
        assert other["metrics"][0]["overflows"] == first["overflows"]
        assert other["metrics"][1]["loss_scale"] == last["loss_scale"]
    given = spec_of(models[kind], scale=last["loss_scale"], **options)
    told, *_ = pool.run(train, given, iterations, False, world_size=world)
    assert told["metrics"][0]["overflows"] == 0
    assert_same_bits(found["weights"], told["weights"])


@pytest.mark.parametrize(("parallel", "least"), [({}, None), ({"tensor": 2, "sequence": True}, 2.0**12)])
def test_loss_that_is_no_number_skips_the_step_and_keeps_the_factor(
    parallel: dict[str, Any], least: float | None, pool: RankPool, models: dict[str, Path]
) -> None:
    """Until the least factor is reached the passes are made again, every time with half of it."""
    world = parallel.get("tensor", 1)
    iterations = not_a_number(parts_of(2))
    spec = spec_of(models["dense"], parallel=parallel, least=least)
    result, *_ = pool.run(train, spec, iterations, False, world_size=world)
    before, *_ = pool.run(train, spec, iterations[:1], False, world_size=world)
    first, last = result["metrics"]
    assert last["skipped_steps"] == 1  # of two: the number is in the first
    assert last["loss_scale"] == first["loss_scale"] == 2.0**16
    assert any((result["weights"][name] != values).any() for name, values in before["weights"].items())
    assert all(np.isfinite(values).all() for values in result["weights"].values())


@pytest.mark.parametrize(("kind", "parallel"), [("dense", {}), ("moe", EXPERTS)])
def test_gradients_are_near_those_of_float32(
    kind: str, parallel: dict[str, int], pool: RankPool, models: dict[str, Path]
) -> None:
    iterations = parts_of(1, parallel.get("data", 1))
    world = parallel.get("data", 1)
    results = {
        dtype: pool.run(train, spec_of(models[kind], dtype, parallel=parallel), iterations, world_size=world)[0]
        for dtype in (DType.float32, DType.float16)
    }
    exact, half = results[DType.float32], results[DType.float16]
    assert half["metrics"][0]["loss"] == pytest.approx(exact["metrics"][0]["loss"], rel=0.01, abs=1e-3)
    assert half["metrics"][0]["grad_norm"] == pytest.approx(exact["metrics"][0]["grad_norm"], rel=2e-3)
    for name, gradient in exact["gradients"].items():
        difference = np.abs(half["gradients"][name] - gradient).max() / np.abs(gradient).max()
        assert difference < 0.02, name


@pytest.mark.parametrize("sharded", [False, True])
def test_resumed_run_has_the_factor_and_the_bits_of_the_undisturbed_one(
    sharded: bool, pool: RankPool, models: dict[str, Path], tmp_path: Path
) -> None:
    iterations = parts_of(4, 2)
    options: dict[str, Any] = {"parallel": EXPERTS, "trainer": TrainerConfig(distributed_optimizer=sharded)}
    whole, *_ = pool.run(
        train_and_save_halfway,
        spec_of(models["moe"], scale=TOO_LARGE, **options),
        iterations,
        str(tmp_path),
        world_size=2,
    )
    # Told another factor to begin with: that of the checkpoint counts.
    spec = spec_of(models["moe"], scale=TOO_LARGE, **options)
    again, *_ = pool.run(resume, spec, iterations[2:], str(tmp_path), world_size=2)
    assert again["metrics"]["overflows"] == 0
    assert again["metrics"]["loss_scale"] == whole["metrics"]["loss_scale"] < TOO_LARGE
    assert_same_bits(again["weights"], whole["weights"])
    alone, *_ = pool.run(
        resume,
        spec_of(models["moe"], scale=TOO_LARGE),
        [divide(make_batch(ALGORITHMS["grpo_kl"], seed=seed), 1) for seed in (2, 3)],
        str(tmp_path),
        world_size=1,
    )
    assert alone["metrics"]["loss_scale"] == whole["metrics"]["loss_scale"]
    for name, values in whole["weights"].items():
        np.testing.assert_allclose(alone["weights"][name], values, atol=2e-3, err_msg=name)

"""The same batches on one rank and on several, split in every way: the same log-probs, losses, gradients, weights."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scenarios
from layout_matrix import (
    CLIP,
    ETP,
    FOUR_RANKS,
    LARGE_EPS,
    SIXTEEN_BITS,
    SP,
    TP,
    TWO_RANKS,
    VPP,
    Differences,
    Layout,
    compare,
    measure,
    run,
)
from rank_pool import RankFailed, RankPool
from training_data import ALGORITHMS, divide, divide_for, make_batch, max_tokens_of

from rlscale.config.schema.model_config import DType
from rlscale.data.batches.packing import plan

FP32_BOUNDS = Differences(loss=1e-5, grad_norm=1e-5, gradients=1e-5, logprobs=1e-5, weights=5e-6, metrics=1e-5)
DEFAULT_EPS_BOUNDS = replace(FP32_BOUNDS, weights=5e-5)
BOUNDS_16 = {
    DType.bfloat16: Differences(loss=0.06, grad_norm=0.01, gradients=0.1, logprobs=0.05, weights=0.02, metrics=0.2),
    DType.float16: Differences(loss=0.01, grad_norm=2e-3, gradients=0.02, logprobs=0.01, weights=4e-3, metrics=0.03),
}

PPO_ITERATIONS = 1
"""As many steps as the others; the benchmark has twice as many."""


@pytest.fixture(scope="module")
def one_rank(pool: RankPool, models: dict[str, Path]) -> Any:
    """Results of one rank by model and algorithm, computed once each."""
    known: dict[str, Any] = {}

    def get(layout: Layout) -> Any:
        key = layout.baseline.name
        if key not in known:
            (known[key],) = run(layout.baseline, pool, models, PPO_ITERATIONS)
        return known[key]

    return get


@pytest.mark.parametrize("layout", [*TWO_RANKS, *FOUR_RANKS], ids=lambda layout: layout.name)
def test_every_layout_gives_the_logprobs_losses_gradients_and_weights_of_one_rank(
    layout: Layout, pool: RankPool, models: dict[str, Path], one_rank: Any
) -> None:
    bounds = FP32_BOUNDS if layout.eps == LARGE_EPS else DEFAULT_EPS_BOUNDS
    assert_within(measure(layout, pool, models, one_rank(layout), PPO_ITERATIONS), bounds)


@pytest.mark.parametrize("layout", SIXTEEN_BITS, ids=lambda layout: layout.name)
def test_sixteen_bits_stay_near_one_rank_in_fp32(
    layout: Layout, pool: RankPool, models: dict[str, Path], one_rank: Any
) -> None:
    assert_within(measure(layout, pool, models, one_rank(layout)), BOUNDS_16[layout.dtype])


@pytest.mark.parametrize("kind", ["dense", "tied", "deep", "moe", "deep_moe"])
def test_what_is_compared_is_not_zero(kind: str, one_rank: Any) -> None:
    result = one_rank(Layout(kind, "grpo_kl"))
    assert abs(result["metrics"][0]["loss"]) > 0.02
    assert np.abs(result["logprobs"]).max() > 1.0
    for name, gradient in result["gradients"].items():
        assert np.abs(gradient).max() > 1e-4, name


@pytest.mark.parametrize("kind", ["dense", "moe"])
def test_what_is_compared_with_a_bound_on_the_norm_was_clipped_in_every_step(kind: str, one_rank: Any) -> None:
    free, clipped = (one_rank(Layout(kind, "grpo_kl", clip_grad=bound)) for bound in (0.0, CLIP))
    assert all(metrics["grad_norm"] > 10 * CLIP for metrics in clipped["metrics"])
    moved = [np.abs(free["weights"][name] - weight).max() for name, weight in clipped["weights"].items()]
    assert min(moved) > 100 * FP32_BOUNDS.weights


WHOLE: dict[str, Any] = {
    "metrics": [{"loss": 0.5, "grad_norm": 2.0, "entropy": 3.0} for _ in range(2)],
    "gradients": {"first": np.ones(3), "last": np.ones(3)},
    "logprobs": np.ones(3),
    "weights": {"first": np.ones(3), "last": np.ones(3)},
}


@pytest.mark.parametrize(
    "place",
    [
        *(("metrics", 1, name) for name in ("loss", "grad_norm", "entropy")),
        *((kind, name, number) for kind in ("gradients", "weights") for name in ("first", "last") for number in (0, 2)),
        ("logprobs", 2),
    ],
    ids=str,
)
def test_one_value_that_is_no_number_is_outside_every_bound(place: tuple[Any, ...]) -> None:
    broken = deepcopy(WHOLE)
    *path, last = place
    holder: Any = broken
    for step in path:
        holder = holder[step]
    holder[last] = np.nan
    good, bad = compare(deepcopy(WHOLE), WHOLE), compare(broken, WHOLE)
    assert_within(good.worst(good), FP32_BOUNDS)
    for of_two_ranks in (good.worst(bad), bad.worst(good)):
        with pytest.raises(AssertionError, match=": nan is above"):
            assert_within(of_two_ranks, BOUNDS_16[DType.bfloat16])


def test_only_the_multiple_of_a_plan_gives_virtual_pipelines_as_many_microbatches_as_they_need(
    models: dict[str, Path],
) -> None:
    spec = Layout("deep", "grpo_kl", VPP).spec(models)
    for seed in range(2):
        batch = make_batch(ALGORITHMS["grpo_kl"], seed=seed)
        lengths, steps = batch.lengths, batch.column("step")
        assert plan(lengths, steps, 1, max_tokens_of(spec)).microbatches == [3, 3]
        assert [len(step) for step in divide_for(batch, spec)[0].steps] == [4, 4]


@pytest.mark.parametrize("layout", [Layout("moe", "grpo", SP | {"expert": 2}), Layout("moe", "grpo", SP | ETP)])
def test_experts_that_tensor_parallel_ranks_share_out_come_back_from_a_checkpoint(
    layout: Layout, pool: RankPool, models: dict[str, Path], tmp_path: Path
) -> None:
    spec, folder = layout.spec(models), str(tmp_path / "checkpoint")
    iterations = [divide(make_batch(spec.algo, seed=seed), 1) for seed in range(2)]
    straight = pool.run(scenarios.train_and_save_halfway, spec, iterations, folder, world_size=2)
    resumed = pool.run(scenarios.resume, spec, iterations[1:], folder, world_size=2)
    for name, weight in straight[0]["weights"].items():
        np.testing.assert_array_equal(resumed[0]["weights"][name], weight, err_msg=name)


def test_experts_with_tensor_but_without_sequence_parallelism_are_refused(
    pool: RankPool, models: dict[str, Path]
) -> None:
    with pytest.raises(RankFailed, match=r"UserError: .* needs parallel.sequence=true"):
        run(Layout("moe", "grpo", TP), pool, models)


def test_sizes_whose_product_is_not_the_number_of_ranks_are_refused(pool: RankPool, models: dict[str, Path]) -> None:
    spec = Layout("dense", "grpo", TP).spec(models)
    with pytest.raises(RankFailed, match=r"UserError: parallel.tensor x .* x data = 2, but there are 1 trainer ranks"):
        pool.run(scenarios.train, spec, [], world_size=1)


def assert_within(difference: Differences, bounds: Differences) -> None:
    """None of the differences is above its bound (or not a number)."""
    for entry in fields(Differences):
        value, bound = getattr(difference, entry.name), getattr(bounds, entry.name)
        assert value <= bound, f"{entry.name}: {value:.2e} is above {bound:.0e}; {difference}"

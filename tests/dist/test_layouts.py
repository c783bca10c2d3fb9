"""The same batches on one rank and on two, split in every way: the same losses, log-probs, gradients and weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scenarios
from rank_pool import RankPool
from training_data import divide, make_batch, make_spec

LAYOUTS = [
    ("dense", "grpo", {"tensor": 2}, {}),
    ("dense", "grpo_kl", {"tensor": 2, "sequence": True}, {}),
    ("tied", "grpo", {"tensor": 2, "sequence": True}, {}),
    ("dense", "grpo", {"data": 2}, {}),
    ("dense", "grpo_kl", {"data": 2}, {}),
    ("dense", "gspo", {"data": 2}, {}),
    ("dense", "gspo", {"context": 2}, {}),
    ("dense", "grpo_kl", {"context": 2}, {}),
    ("dense", "grpo_kl", {"pipeline": 2}, {}),
    ("tied", "grpo", {"pipeline": 2}, {}),
    ("deep", "grpo_kl", {"pipeline": 2, "virtual_pipeline": 2}, {}),
    ("dense", "sft", {"tensor": 2}, {}),
    ("moe", "grpo", {"expert": 2, "data": 2}, {}),
    ("moe", "grpo", {"tensor": 2, "sequence": True}, {}),
    ("moe", "grpo", {"tensor": 2, "sequence": True, "expert": 2}, {}),
]


def _name(layout: tuple[str, str, dict[str, int], dict[str, Any]]) -> str:
    model, algorithm, parallel, _ = layout
    return "-".join([model, algorithm, *(f"{key}{value}" for key, value in parallel.items())])


@pytest.fixture(scope="module")
def one_rank(pool: RankPool, models: dict[str, Path]) -> Any:
    """Results of one rank by model and algorithm, computed once each."""
    known: dict[tuple[str, str], Any] = {}

    def get(model: str, algorithm: str) -> Any:
        if (model, algorithm) not in known:
            spec = make_spec(models[model], algorithm)
            iterations = [divide(make_batch(spec.algo, seed=seed), 1) for seed in range(2)]
            known[model, algorithm] = pool.run(scenarios.train, spec, iterations, world_size=1)[0]
        return known[model, algorithm]

    return get


@pytest.mark.parametrize("layout", LAYOUTS, ids=_name)
def test_two_ranks_give_the_loss_gradients_and_weights_of_one(
    layout: tuple[str, str, dict[str, int], dict[str, Any]], pool: RankPool, models: dict[str, Path], one_rank: Any
) -> None:
    model, algorithm, parallel, options = layout
    spec = make_spec(models[model], algorithm, parallel=parallel, **options)
    iterations = [divide(make_batch(spec.algo, seed=seed), spec.data_parallel) for seed in range(2)]
    results = pool.run(scenarios.train, spec, iterations, world_size=2)
    expected = one_rank(model, algorithm)

    for rank in range(2):
        assert_same(results[rank], expected)
    assert results[0]["metrics"][0]["loss"] == results[1]["metrics"][0]["loss"]


def assert_same(got: dict[str, Any], expected: dict[str, Any]) -> None:
    """Relative bounds: gradients and their norm 1e-5, metrics 1e-5, weights 5e-5 (Adam amplifies what is near zero)."""
    for before, after in zip(expected["metrics"], got["metrics"], strict=True):
        for name in ("loss", "grad_norm", "tokens", "entropy", "ppo_kl", "ratio_max", "kl", "logprob_diff_mean"):
            if name in before:
                assert after[name] == pytest.approx(before[name], rel=1e-5, abs=2e-6), name
    assert set(got["weights"]) == set(expected["weights"])
    for name, gradient in expected["gradients"].items():
        if got["gradients"]:
            largest = np.abs(gradient).max()
            assert np.abs(got["gradients"][name] - gradient).max() <= 1e-5 * largest + 1e-8, name
    for name, weight in expected["weights"].items():
        assert np.abs(got["weights"][name] - weight).max() <= 5e-5, name

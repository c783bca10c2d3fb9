"""Adapters of low rank: trained alone, the same in every layout, and what peft's formula says."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import adapter_scenarios
import numpy as np
import pytest
from rank_pool import RankPool
from training_data import divide_for, make_batch, make_spec

from rlscale.config.schema.lora_config import LoraConfig
from rlscale.config.schema.optim_config import OptimConfig
from rlscale.config.schema.trainer_config import Recompute, TrainerConfig
from rlscale.trainer.spec import TrainerSpec

LAYOUTS: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("dense", {"tensor": 2}, {}),
    ("dense", {"tensor": 2, "sequence": True}, {"recompute": Recompute.full}),
    ("tied", {"pipeline": 2}, {}),
    ("dense", {"context": 2}, {}),
    ("dense", {"data": 2}, {"distributed_optimizer": True}),
    ("moe", {"tensor": 2, "sequence": True, "expert": 2}, {}),
]


def spec_of(model: Path, lora: LoraConfig, parallel: dict[str, Any], **trainer: Any) -> TrainerSpec:
    optim = OptimConfig(lr=1e-2, eps=1e-3, clip_grad=0.0)
    spec = make_spec(model, "grpo_kl", parallel=parallel, optim=optim, trainer=TrainerConfig(**trainer))
    algo = replace(spec.algo, steps_per_iteration=1)  # so that gradients compared are of the very first step
    return replace(spec, algo=algo, model=replace(spec.model, lora=lora))


def train(pool: RankPool, spec: TrainerSpec, ranks: int = 1) -> list[dict[str, Any]]:
    parts = [divide_for(make_batch(spec.algo, seed=seed), spec) for seed in range(2)]
    return pool.run(adapter_scenarios.train, spec, parts, world_size=ranks)


@pytest.fixture(scope="module")
def one_rank(pool: RankPool, models: dict[str, Path]) -> Any:
    """Results of one rank by model, computed once each."""
    known: dict[str, Any] = {}

    def get(kind: str) -> Any:
        if kind not in known:
            (known[kind],) = train(pool, spec_of(models[kind], LoraConfig(rank=4, alpha=8.0), {}))
        return known[kind]

    return get


def worst(got: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> float:
    """The largest difference, relative to a tensor's largest value."""
    assert got.keys() == expected.keys()
    return max(float(np.abs(got[name] - x).max() / max(np.abs(x).max(), 1e-8)) for name, x in expected.items())


@pytest.mark.parametrize("kind", ["dense", "moe"])
def test_an_adapter_changes_no_bit_at_first_and_the_reference_at_no_time(kind: str, one_rank: Any) -> None:
    result = one_rank(kind)
    (policy, reference), (trained, still) = result["before"], result["after"]
    np.testing.assert_array_equal(policy, reference)
    np.testing.assert_array_equal(still, reference)
    assert np.abs(trained - result["start"]).max() > 0.01
    assert result["frozen"] == 0
    assert result["metrics"][0]["kl"] > 0.001


@pytest.mark.parametrize("kind", ["dense", "moe"])
def test_nothing_but_adapters_is_trained(kind: str, one_rank: Any) -> None:
    result = one_rank(kind)
    size = sum(tensor.size for tensor in result["tensors"].values())
    assert result["trained"] == result["optimized"] == size
    moved = {name for name, w in result["weights"].items() if not np.array_equal(w, result["base"][name])}
    linears = {name.removeprefix("base_model.model.").rpartition(".lora_")[0] for name in result["tensors"]}
    assert moved == {f"{linear}.weight" for linear in linears}
    assert not any(".experts." in name or "norm" in name for name in moved)


@pytest.mark.parametrize(("kind", "parallel", "trainer"), LAYOUTS)
def test_every_layout_draws_and_trains_the_adapters_of_one_rank(
    kind: str,
    parallel: dict[str, Any],
    trainer: dict[str, Any],
    pool: RankPool,
    models: dict[str, Path],
    one_rank: Any,
) -> None:
    expected = one_rank(kind)
    for got in train(pool, spec_of(models[kind], LoraConfig(rank=4, alpha=8.0), parallel, **trainer), 2):
        assert worst(got["drawn"], expected["drawn"]) == 0
        if not trainer.get("distributed_optimizer"):
            assert worst(got["gradients"], expected["gradients"]) < 1e-5
        assert worst(got["tensors"], expected["tensors"]) < 1e-5
        assert worst(got["weights"], expected["weights"]) < 1e-5
        assert got["metrics"][1]["grad_norm"] == pytest.approx(expected["metrics"][1]["grad_norm"], rel=1e-5)
        if got["before"][0] is not None:
            np.testing.assert_array_equal(*got["before"])


def test_what_is_sent_is_the_base_and_alpha_over_rank_times_b_a(one_rank: Any) -> None:
    result = one_rank("dense")
    for name, a in result["tensors"].items():
        if ".lora_A." not in name:
            continue
        linear = name.removeprefix("base_model.model.").removesuffix(".lora_A.weight")
        b = result["tensors"][name.replace("lora_A", "lora_B")]
        merged = result["base"][f"{linear}.weight"] + 8.0 / 4 * (b.astype(np.float64) @ a)
        np.testing.assert_allclose(result["weights"][f"{linear}.weight"], merged, rtol=0, atol=1e-6)

"""Adapters of low rank: trained alone, the same in every layout, and what peft's formula says."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import adapter_scenarios
import numpy as np
import pytest
import scenarios
import torch
from layout_matrix import OVERLAPS
from peft_formula import gradients_of_peft, hf_logprobs
from rank_pool import RankFailed, RankPool
from safetensors.torch import load_file, save_file
from scenarios import whole_column
from tiny_models import EXPERTS, make_of_family
from torch.distributed.checkpoint import FileSystemReader
from training_data import divide_for, make_batch, make_spec

from rlscale.config.schema.dtype import DType
from rlscale.config.schema.lora_config import LoraConfig
from rlscale.config.schema.optim_config import OptimConfig
from rlscale.config.schema.trainer_config import Recompute, TrainerConfig
from rlscale.trainer.trainer_spec import TrainerSpec

LORA = LoraConfig(rank=4, alpha=8.0)
OF_EXPERTS = LoraConfig(rank=4, alpha=8.0, targets=["*.mlp.experts.*", "*.q_proj"])
LAYOUTS: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("dense", {"tensor": 2}, {}),
    ("dense", {"tensor": 2, "sequence": True}, {"recompute": Recompute.full}),
    ("tied", {"pipeline": 2}, {}),
    ("dense", {"context": 2}, {}),
    ("dense", {"data": 2}, {"distributed_optimizer": True, "ddp": OVERLAPS}),
    ("moe", {"tensor": 2, "sequence": True, "expert": 2}, {}),
    ("deepseek_v3", {"tensor": 2, "sequence": True}, {}),
    ("qwen3_next", {"tensor": 2, "sequence": True}, {}),
    ("glm4", {"pipeline": 2}, {}),
    ("experts", {"tensor": 2, "sequence": True, "expert": 2}, {}),
    ("experts", {"expert_tensor": 2, "data": 2}, {"recompute": Recompute.full}),
    ("experts", {"expert": 2, "data": 2}, {"distributed_optimizer": True, "ddp": OVERLAPS}),
    ("experts", {"pipeline": 2}, {}),
    ("experts", {"tensor": 2, "sequence": True, "expert": 2, "expert_tensor": 2, "data": 2}, {}),
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
def folders(models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Models by kind (experts: with adapters on them), and of families whose linears are made otherwise.

    These are compressed, gated, in one tensor, or have norms behind them.
    """
    made = tmp_path_factory.mktemp("families")
    return (
        models
        | {"experts": models["moe"]}
        | {kind: make_of_family(made / kind, kind) for kind in ("deepseek_v3", "qwen3_next", "glm4")}
    )


@pytest.fixture(scope="module")
def one_rank(pool: RankPool, folders: dict[str, Path]) -> Any:
    """Results of one rank by model, computed once each."""
    known: dict[str, Any] = {}

    def get(kind: str) -> Any:
        if kind not in known:
            (known[kind],) = train(pool, spec_of(folders[kind], lora_of(kind), {}))
        return known[kind]

    return get


def lora_of(kind: str) -> LoraConfig:
    return OF_EXPERTS if kind == "experts" else LORA


def worst(got: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> float:
    """The largest difference, relative to a tensor's largest value."""
    assert got.keys() == expected.keys()
    return max(float(np.abs(got[name] - x).max() / max(np.abs(x).max(), 1e-8)) for name, x in expected.items())


@pytest.mark.parametrize("kind", ["dense", "moe", "experts"])
def test_an_adapter_changes_no_bit_at_first_and_the_reference_at_no_time(kind: str, one_rank: Any) -> None:
    result = one_rank(kind)
    (policy, reference), (trained, still) = result["before"], result["after"]
    np.testing.assert_array_equal(policy, reference)
    np.testing.assert_array_equal(still, reference)
    assert np.abs(trained - result["start"]).max() > 0.01
    assert result["frozen"] == 0
    assert result["metrics"][0]["kl"] > 0.001


@pytest.mark.parametrize("kind", ["dense", "moe", "experts"])
def test_nothing_but_adapters_is_trained(kind: str, one_rank: Any) -> None:
    result = one_rank(kind)
    size = sum(tensor.size for tensor in result["tensors"].values())
    assert result["trained"] == result["optimized"] == size
    moved = {name for name, w in result["weights"].items() if not np.array_equal(w, result["base"][name])}
    linears = {name.removeprefix("base_model.model.").rpartition(".lora_")[0] for name in result["tensors"]}
    assert moved == {f"{linear}.weight" for linear in linears}
    assert not any("norm" in name for name in moved)
    assert sum(".experts." in name for name in moved) == (2 * 3 * EXPERTS["num_experts"] if kind == "experts" else 0)


@pytest.mark.parametrize(("kind", "parallel", "trainer"), LAYOUTS)
def test_every_layout_draws_and_trains_the_adapters_of_one_rank(
    kind: str,
    parallel: dict[str, Any],
    trainer: dict[str, Any],
    pool: RankPool,
    folders: dict[str, Path],
    one_rank: Any,
) -> None:
    expected = one_rank(kind)
    ranks = math.prod(parallel.get(size, 1) for size in ("tensor", "pipeline", "context", "data"))
    for got in train(pool, spec_of(folders[kind], lora_of(kind), parallel, **trainer), ranks):
        assert worst(got["drawn"], expected["drawn"]) == 0
        if not trainer.get("distributed_optimizer"):
            assert worst(got["gradients"], expected["gradients"]) < 1e-5
        assert worst(got["tensors"], expected["tensors"]) < 1e-5
        assert worst(got["weights"], expected["weights"]) < 1e-5
        assert got["metrics"][1]["grad_norm"] == pytest.approx(expected["metrics"][1]["grad_norm"], rel=1e-5)
        if got["before"][0] is not None:
            np.testing.assert_array_equal(*got["before"])


@pytest.mark.parametrize("dtype", [None, DType.float32])
@pytest.mark.parametrize("parallel", [{}, {"data": 2}])
def test_adapters_of_a_16_bit_model_train_near_those_in_float32(
    dtype: DType | None, parallel: dict[str, Any], pool: RankPool, models: dict[str, Path], one_rank: Any
) -> None:
    expected = one_rank("dense")
    spec = spec_of(
        models["dense"], LoraConfig(rank=4, alpha=8.0, dtype=dtype), parallel, distributed_optimizer=bool(parallel)
    )
    spec = replace(spec, model=replace(spec.model, dtype=DType.bfloat16))
    got = train(pool, spec, 2 if parallel else 1)[0]
    np.testing.assert_array_equal(*got["before"])
    for name, tensor in got["tensors"].items():
        exact = np.array_equal(torch.from_numpy(tensor).bfloat16().float().numpy(), tensor)
        assert exact == (dtype is None), name
    assert worst(got["drawn"], expected["drawn"]) <= (0.004 if dtype is None else 0)
    assert worst(got["tensors"], expected["tensors"]) < 0.05


@pytest.mark.parametrize("kind", ["dense", "experts"])
def test_what_is_sent_is_the_base_and_alpha_over_rank_times_b_a(kind: str, one_rank: Any) -> None:
    result = one_rank(kind)
    for name, a in result["tensors"].items():
        if ".lora_A." not in name:
            continue
        linear = name.removeprefix("base_model.model.").removesuffix(".lora_A.weight")
        b = result["tensors"][name.replace("lora_A", "lora_B")]
        merged = result["base"][f"{linear}.weight"] + 8.0 / 4 * (b.astype(np.float64) @ a)
        np.testing.assert_allclose(result["weights"][f"{linear}.weight"], merged, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("kind", "written", "read"),
    [
        ("dense", {}, {}),
        ("dense", {"tensor": 2, "sequence": True}, {"data": 2}),
        ("dense", {"pipeline": 2}, {"tensor": 2}),
        ("experts", {"tensor": 2, "sequence": True, "expert": 2}, {"data": 2, "expert_tensor": 2}),
    ],
)
def test_a_checkpoint_holds_adapters_alone_and_any_layout_continues_it(
    kind: str,
    written: dict[str, Any],
    read: dict[str, Any],
    pool: RankPool,
    folders: dict[str, Path],
    tmp_path: Path,
) -> None:
    folder = tmp_path / "saved"
    one, other = (spec_of(folders[kind], lora_of(kind), parallel) for parallel in (written, read))
    iterations = [[divide_for(make_batch(s.algo, seed=seed), s) for seed in range(4)] for s in (one, other)]
    straight = pool.run(
        scenarios.train_and_save_halfway, one, iterations[0], str(folder), world_size=2 if written else 1
    )[0]
    resumed = pool.run(scenarios.resume, other, iterations[1][2:], str(folder), world_size=2 if read else 1)[0]
    assert resumed["steps"] == 2
    assert one.of_checkpoint(str(folder)).adapter_path == str(folder)
    assert replace(one, init_path="elsewhere").of_checkpoint(str(folder)).init_path == one.init_path
    bound = 0 if written == read else 1e-5
    assert worst(resumed["weights"], straight["weights"]) <= bound
    names = set(FileSystemReader(folder).read_metadata().state_dict_metadata)
    assert any(name.startswith("adapter.model.layers.0.") for name in names)
    assert not any("decoder" in name or "embedding" in name for name in names)


def test_a_checkpoint_of_adapters_is_not_taken_for_one_of_a_model(
    pool: RankPool, models: dict[str, Path], tmp_path: Path
) -> None:
    spec, folder = spec_of(models["dense"], LORA, {}), str(tmp_path / "saved")
    parts = [divide_for(make_batch(spec.algo), spec)] * 2
    pool.run(scenarios.train_and_save_halfway, spec, parts, folder, world_size=1)
    whole = replace(spec, model=replace(spec.model, lora=None))
    other = replace(spec, model=replace(spec.model, lora=LoraConfig(rank=4, alpha=16.0)))
    moved = replace(spec, init_path=str(models["other_dense"]))
    for one, line in (
        (whole, "holds adapters alone, on the model in "),
        (replace(spec, init_path=folder), f"start from that model, with .* and model.lora.path={folder}"),
        (other, "holds adapters with alpha=8.0"),
        (moved, "are others; give back what they were trained on"),
    ):
        with pytest.raises(RankFailed, match=line):
            pool.run(scenarios.resume, one, [], folder, world_size=1)


def test_an_exported_adapter_is_what_peft_computes_and_a_run_starts_from_it(
    pool: RankPool, models: dict[str, Path], tmp_path: Path
) -> None:
    """Plain torch stands in for peft: its formula, on transformers' model, under the names in the folder."""
    targets = ["*.q_proj", "*.v_proj", "*.mlp.*"]
    spec = spec_of(models["dense"], LoraConfig(rank=4, alpha=8.0, targets=targets), {"tensor": 2})
    batch = make_batch(spec.algo)
    parts = divide_for(batch, spec)
    columns = pool.run(scenarios.train_and_export, spec, parts, str(tmp_path / "hf"), world_size=2)
    trained = whole_column(parts, batch, columns)
    adapter = tmp_path / "hf" / "adapter"
    config = json.loads((adapter / "adapter_config.json").read_text())
    assert config["target_modules"] == ["down_proj", "gate_proj", "q_proj", "up_proj", "v_proj"]
    expected = hf_logprobs(models["dense"], batch, spec.temperature, adapter)
    mask = batch.column("loss_mask")
    np.testing.assert_allclose(trained[mask], expected[mask], rtol=0, atol=1e-5)
    merged = hf_logprobs(tmp_path / "hf", batch, spec.temperature)
    np.testing.assert_allclose(merged[mask], expected[mask], rtol=0, atol=1e-5)
    assert np.abs(expected - hf_logprobs(models["dense"], batch, spec.temperature))[mask].max() > 0.01
    again = spec_of(models["dense"], LoraConfig(rank=4, alpha=8.0, targets=targets, path=str(adapter)), {})
    whole = divide_for(batch, again)
    (column,) = pool.run(scenarios.logprobs, again, whole, world_size=1)
    started = whole_column(whole, batch, [column])
    np.testing.assert_allclose(started[mask], trained[mask], rtol=0, atol=1e-5)
    unfit = replace(again, model=replace(again.model, lora=replace(again.model.lora, targets=None)))
    with pytest.raises(RankFailed, match=r"has no adapter in that folder; set model.lora.targets to"):
        pool.run(scenarios.logprobs, unfit, whole, world_size=1)
    biases = load_file(adapter / "adapter_model.safetensors")
    biases |= {name.replace("weight", "bias"): torch.zeros(4) for name in biases if ".lora_B." in name}
    save_file(biases, adapter / "adapter_model.safetensors")
    with pytest.raises(RankFailed, match=r"lora_B.bias is not of plain LoRA, the only form that is supported"):
        pool.run(scenarios.logprobs, again, whole, world_size=1)
    (adapter / "adapter_config.json").write_text(json.dumps({**config, "lora_bias": True}))
    with pytest.raises(RankFailed, match="lora_bias=True is not supported; only plain LoRA is"):
        pool.run(scenarios.logprobs, again, whole, world_size=1)


def test_an_adapter_of_experts_is_exported_for_each_and_a_run_of_another_layout_starts_from_it(
    pool: RankPool, models: dict[str, Path], tmp_path: Path
) -> None:
    lora = replace(OF_EXPERTS, targets=["*.v_proj", "*.experts.*.up_proj", "*.experts.*.down_proj"])
    spec = spec_of(models["moe"], lora, {"tensor": 2, "sequence": True, "expert": 2})
    batch = make_batch(spec.algo)
    parts = divide_for(batch, spec)
    columns = pool.run(scenarios.train_and_export, spec, parts, str(tmp_path / "hf"), world_size=2)
    trained = whole_column(parts, batch, columns)
    adapter = tmp_path / "hf" / "adapter"
    names = load_file(adapter / "adapter_model.safetensors").keys()
    assert "base_model.model.model.layers.1.mlp.experts.3.up_proj.lora_B.weight" in names
    assert len(names) == 2 * 2 * (1 + 2 * EXPERTS["num_experts"])
    config = json.loads((adapter / "adapter_config.json").read_text())
    assert config["target_modules"] == ["down_proj", "up_proj", "v_proj"]
    mask = batch.column("loss_mask")
    for folder, of in ((models["moe"], adapter), (tmp_path / "hf", None)):
        np.testing.assert_allclose(
            trained[mask], hf_logprobs(folder, batch, spec.temperature, of)[mask], rtol=0, atol=1e-5
        )
    assert np.abs(trained - hf_logprobs(models["moe"], batch, spec.temperature))[mask].max() > 0.01
    again = spec_of(models["moe"], replace(lora, path=str(adapter)), {"data": 2, "expert_tensor": 2})
    whole = divide_for(batch, again)
    started = whole_column(whole, batch, pool.run(scenarios.logprobs, again, whole, world_size=2))
    np.testing.assert_allclose(started[mask], trained[mask], rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", ["dense", "experts"])
def test_gradients_are_those_of_pefts_formula_on_the_model_of_transformers(
    kind: str, pool: RankPool, folders: dict[str, Path]
) -> None:
    spec = spec_of(folders[kind], lora_of(kind), {})
    supervised = make_spec(folders[kind], "sft")
    spec = replace(spec, algo=supervised.algo)
    batch = make_batch(spec.algo)
    (result,) = pool.run(adapter_scenarios.train, spec, [divide_for(batch, spec)], world_size=1)
    expected = gradients_of_peft(folders[kind], batch, result["started"], 8.0 / 4, spec.temperature)
    assert worst(result["gradients"], expected) < 2e-5

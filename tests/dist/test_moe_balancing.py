"""The router's own losses: their gradient is that of a float64 model, whatever the layout and the number of tokens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import balancing_scenarios
import numpy as np
import pytest
import scenarios
import torch
from rank_pool import RankPool
from tiny_models import EXPERTS, SIZES
from training_data import divide, make_batch, make_spec
from transformers import AutoModelForCausalLM

from rlscale.config.schema.model_config import DType
from rlscale.config.schema.optim_config import OptimConfig
from rlscale.config.schema.trainer_config import TrainerConfig
from rlscale.data.batches.batch import Batch
from rlscale.data.batches.rank_shard import RankShard
from rlscale.trainer.trainer_spec import TrainerSpec

LAYERS, COUNT, TOP_K = SIZES["num_hidden_layers"], EXPERTS["num_experts"], EXPERTS["num_experts_per_tok"]
COMPARED = [
    f"model.layers.{layer}.{name}.weight" for layer in range(LAYERS) for name in ("mlp.gate", "self_attn.q_proj")
]
"""The routers, and parameters that reach later layers' routers only through the hidden states."""

# Coefficients far above those in use, so that the rounding of the policy's gradient does not hide the losses'.
AUX = {"moe_router_load_balancing_type": "aux_loss", "moe_aux_loss_coeff": 2.0}
ALL = {
    "moe_router_load_balancing_type": ["aux_loss", "global_aux_loss"],
    "moe_aux_loss_coeff": [2.0, 1.0],
    "moe_z_loss_coeff": 0.5,
}


def spec_of(models: dict[str, Path], megatron: dict[str, Any], **options: Any) -> TrainerSpec:
    trainer = TrainerConfig(megatron=megatron)
    return make_spec(models["moe"], "sft", optim=OptimConfig(lr=0.0, clip_grad=0.0), trainer=trainer, **options)


def without_policy_loss(batch: Batch) -> Batch:
    """Only the router's own losses have gradients then."""
    return batch.with_column("loss_weight", np.zeros(batch.tokens_total))


def test_the_loss_adds_its_coefficient_times_its_own_gradient(pool: RankPool, models: dict[str, Path]) -> None:
    results = []
    for megatron in (AUX, {}):
        spec = spec_of(models, megatron)
        parts = divide(make_batch(spec.algo), 1, max_tokens=10**6)
        assert len(parts[0].steps[0]) == 1
        results.append(pool.run(scenarios.train, spec, [parts], world_size=1)[0])
    (with_loss, without), (gradients, values) = results, _reference(models["moe"], parts, AUX)
    for name in COMPARED:
        added, scale = with_loss["gradients"][name] - without["gradients"][name], np.abs(gradients[name]).max()
        assert scale > 1e-3
        np.testing.assert_allclose(added, gradients[name], atol=1e-5 * scale, err_msg=name)
    assert with_loss["metrics"][0]["loss"] == without["metrics"][0]["loss"]
    assert with_loss["metrics"][0]["load_balancing_loss"] == pytest.approx(values["load_balancing_loss"], rel=1e-5)
    assert "load_balancing_loss" not in without["metrics"][0]


RECOMPUTE = {"recompute_granularity": "selective", "recompute_modules": ["moe"]}


@pytest.mark.parametrize(
    ("parallel", "megatron"),
    [
        ({"data": 2, "expert": 2}, {}),
        ({"tensor": 2, "sequence": True}, {}),
        ({"context": 2}, {}),
        ({"pipeline": 2}, RECOMPUTE),
    ],
    ids=["DP 2, EP 2", "TP 2 + SP", "CP 2", "PP 2, recomputed"],
)
def test_several_microbatches_and_ranks_give_the_mean_weighted_by_tokens(
    parallel: dict[str, Any], megatron: dict[str, Any], pool: RankPool, models: dict[str, Path]
) -> None:
    spec = spec_of(models, {**ALL, **megatron}, parallel=parallel)
    batch = without_policy_loss(make_batch(spec.algo, rows=5))
    parts = divide(batch, spec.data_parallel, max_tokens=16)
    sizes = sorted(int(part.batch.lengths[rows].sum()) for part in parts for rows in part.steps[0])
    # An odd number needs padding where sequences are divided; 0 is a dummy.
    assert sizes == ([8, 9, 13, 16, 20] if spec.data_parallel == 1 else [0, 8, 9, 13, 16, 20])
    gradients, values = _reference(models["moe"], parts, ALL)
    for result in pool.run(scenarios.train, spec, [parts], world_size=2):
        for name in COMPARED:
            scale = np.abs(gradients[name]).max()
            np.testing.assert_allclose(result["gradients"][name], gradients[name], atol=1e-5 * scale, err_msg=name)
        for name, value in values.items():
            assert result["metrics"][0][name] == pytest.approx(value, rel=1e-5), name


def test_the_router_of_a_16_bit_model_computes_in_float32(pool: RankPool, models: dict[str, Path]) -> None:
    spec = spec_of(models, {}, dtype=DType.bfloat16)
    (part,) = divide(make_batch(spec.algo), 1, max_tokens=10**6)
    (layers,) = pool.run(balancing_scenarios.router_logits, spec, part, world_size=1)
    assert len(layers) == LAYERS
    for of in layers:
        assert of["weight"] == "torch.bfloat16"
        assert of["logits"] == "torch.float32"
        assert of["error"] < 1e-6
        assert of["error_of_its_type"] > 1e-4  # what a product in 16 bits would give


def _reference(
    folder: Path, parts: list[RankShard], megatron: dict[str, Any]
) -> tuple[dict[str, np.ndarray], dict[str, float]]:
    """Gradients of the losses by transformers' model in float64, and each loss without its coefficient."""
    kinds, coefficients = megatron.get("moe_router_load_balancing_type", []), megatron.get("moe_aux_loss_coeff", [])
    if isinstance(kinds, str):
        kinds, coefficients = [kinds], [coefficients]
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64, experts_implementation="eager")
    seen: dict[int, list[torch.Tensor]] = {}
    for number, layer in enumerate(model.model.layers):
        layer.mlp.gate.register_forward_hook(
            lambda module, given, output, number=number: seen.setdefault(number, []).append(output[0].view(-1, COUNT))
        )
    step_tokens = sum(int(part.batch.lengths[rows].sum()) for part in parts for rows in part.steps[0])
    sums: dict[str, torch.Tensor] = {}
    so_far = {layer: torch.zeros(COUNT, dtype=torch.float64) for layer in range(LAYERS)}
    for turn in zip(*(part.steps[0] for part in parts), strict=True):
        logits: list[list[torch.Tensor]] = [[] for _ in range(LAYERS)]  # of each rank's micro-batch
        for part, rows in zip(parts, turn, strict=True):
            seen.clear()
            for row in rows:
                model(torch.from_numpy(part.batch.row("tokens", row)).long()[None])
            for number in range(LAYERS):
                logits[number].append(torch.cat([torch.zeros(0, COUNT, dtype=torch.float64), *seen.get(number, [])]))
        for number in range(LAYERS):
            loads = [torch.zeros_like(x).scatter(1, x.topk(TOP_K).indices, 1.0).sum(0) for x in logits[number]]
            so_far[number] = so_far[number] + sum(loads)
            for x, load in zip(logits[number], loads, strict=True):
                terms = {"router_z_loss": x.logsumexp(-1).square().sum()}
                for name, of in (("load_balancing_loss", load), ("global_load_balancing_loss", so_far[number])):
                    terms[name] = COUNT * (of / of.sum().clamp(min=1) * x.softmax(-1).sum(0)).sum()
                for name, term in terms.items():
                    sums[name] = sums.get(name, torch.zeros((), dtype=torch.float64)) + term / step_tokens
    names = {"aux_loss": "load_balancing_loss", "global_aux_loss": "global_load_balancing_loss"}
    weights = {names[kind]: value for kind, value in zip(kinds, coefficients, strict=True)}
    if "moe_z_loss_coeff" in megatron:
        weights["router_z_loss"] = megatron["moe_z_loss_coeff"]
    torch.stack([weight * sums[name] for name, weight in weights.items()]).sum().backward()
    gradients = {name: p.grad.numpy() for name, p in model.named_parameters() if p.grad is not None}
    return gradients, {name: sums[name].item() / LAYERS for name in weights}

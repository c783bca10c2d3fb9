"""Adapters as peft computes them, in plain torch on transformers' model: y = W x + scale * B A x."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file


def hf_model(folder: Path, tensors: dict[str, Any], scale: float) -> tuple[Any, dict[str, torch.Tensor]]:
    """transformers' model with peft's formula on its linears, y = W x + scale * B A x, and the A and B as leaves."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval().requires_grad_(False)
    leaves = {name: torch.as_tensor(x).clone().requires_grad_() for name, x in tensors.items()}
    for name, experts in model.named_modules():
        if name.endswith(".mlp.experts") and any(f"{name}." in leaf for leaf in leaves):
            for fused, of in (("gate_up_proj", ("gate_proj", "up_proj")), ("down_proj", ("down_proj",))):
                added = AddedToExperts(leaves, f"base_model.model.{name}", of, scale)
                torch.nn.utils.parametrize.register_parametrization(experts, fused, added)
    for name, a in leaves.items():
        if ".lora_A." not in name or ".experts." in name:
            continue
        b = leaves[name.replace("lora_A", "lora_B")]
        linear = model.get_submodule(name.removeprefix("base_model.model.").removesuffix(".lora_A.weight"))
        linear.register_forward_hook(
            lambda module, inputs, output, a=a, b=b: output + scale * (inputs[0] @ a.T) @ b.T  # as peft's LoraLayer
        )
    return model, leaves


class AddedToExperts(torch.nn.Module):
    """What adapters of single experts add to transformers' weights of all, [experts, outputs, inputs]."""

    def __init__(self, leaves: dict[str, torch.Tensor], experts: str, parts: tuple[str, ...], scale: float) -> None:
        super().__init__()
        self.leaves, self.experts, self.parts, self.scale = leaves, experts, parts, scale

    def forward(self, weights: torch.Tensor) -> torch.Tensor:
        return torch.stack([self._merged(number, weight) for number, weight in enumerate(weights)])

    def _merged(self, number: int, weight: torch.Tensor) -> torch.Tensor:
        merged = []
        for part, rows in zip(self.parts, weight.chunk(len(self.parts)), strict=True):
            a, b = (self.leaves.get(f"{self.experts}.{number}.{part}.lora_{matrix}.weight") for matrix in "AB")
            merged.append(rows if a is None or b is None else rows + self.scale * b @ a)
        return torch.cat(merged)


def logprobs_of(model: Any, batch: Any, temperature: float) -> torch.Tensor:
    """Of each token given those before it, 0 for the first of a row."""
    column = []
    for row in range(batch.rows):
        tokens = torch.as_tensor(batch.column("tokens")[batch.offsets[row] : batch.offsets[row + 1]]).long()
        scores = (model(tokens[None]).logits[0, :-1] / temperature).log_softmax(-1)
        column.append(torch.cat([scores.new_zeros(1), scores.gather(1, tokens[1:, None])[:, 0]]))
    return torch.cat(column)


@torch.no_grad()
def hf_logprobs(folder: Path, batch: Any, temperature: float, adapter: Path | None = None) -> np.ndarray:
    tensors, scale = {}, 1.0
    if adapter is not None:
        config = json.loads((adapter / "adapter_config.json").read_text())
        tensors, scale = load_file(adapter / "adapter_model.safetensors"), config["lora_alpha"] / config["r"]
    model, _ = hf_model(folder, tensors, scale)
    values: np.ndarray = logprobs_of(model, batch, temperature).numpy()
    return values


def gradients_of_peft(
    folder: Path, batch: Any, tensors: dict[str, Any], scale: float, temperature: float
) -> dict[str, np.ndarray]:
    """Of the mean negative log-prob of the trained tokens."""
    model, leaves = hf_model(folder, tensors, scale)
    mask = torch.as_tensor(batch.column("loss_mask"))
    loss = -logprobs_of(model, batch, temperature)[mask].mean()
    loss.backward()
    return {name: leaf.grad.numpy() for name, leaf in leaves.items() if leaf.grad is not None}

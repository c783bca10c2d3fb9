"""Tiny model folders of each family, written without torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

from rlscale.families.config_file import complete
from rlscale.families.family import Head
from rlscale.families.fit import expected_tensors

DENSE: dict[str, Any] = {
    "model_type": "qwen3",
    "architectures": ["Qwen3ForCausalLM"],
    "vocab_size": 20,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 6,
}
EXPERTS: dict[str, Any] = {
    **DENSE,
    "model_type": "qwen3_moe",
    "architectures": ["Qwen3MoeForCausalLM"],
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 8,
    "norm_topk_prob": True,
}

Weights = dict[str, NDArray[Any]]


def weights_of(config: dict[str, Any], seed: int = 0) -> Weights:
    """Random weights of a language model."""
    random = np.random.default_rng(seed)
    shapes = expected_tensors(complete(config), Head.language)
    return {name: random.standard_normal(shape).astype(np.float32) for name, (shape, _) in shapes.items()}


def write(folder: Path, config: dict[str, Any], weights: Weights | None = None) -> Path:
    """A model folder of one file."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    given = weights_of(config) if weights is None else weights
    save_file(given, folder / "model.safetensors", metadata={"format": "pt"})
    return folder

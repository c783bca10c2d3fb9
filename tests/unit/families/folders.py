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
from rlscale.families.tensors import carried_tensors, expected_tensors

_CONFIGS = Path(__file__).parents[2] / "fixtures" / "families"

TINY: dict[str, dict[str, Any]] = {file.stem: json.loads(file.read_text()) for file in _CONFIGS.glob("*.json")}
"""By model_type, the config of a tiny model."""
DENSE, EXPERTS = TINY["qwen3"], TINY["qwen3_moe"]

Weights = dict[str, NDArray[Any]]


def weights_of(config: dict[str, Any], seed: int = 0) -> Weights:
    """Random weights of a language model, with what the trainer passes over."""
    random = np.random.default_rng(seed)
    shapes = expected_tensors(complete(config), Head.language) | carried_tensors(complete(config))
    return {name: random.standard_normal(shape).astype(np.float32) for name, (shape, _) in shapes.items()}


def write(folder: Path, config: dict[str, Any], weights: Weights | None = None) -> Path:
    """A model folder of one file."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    given = weights_of(config) if weights is None else weights
    save_file(given, folder / "model.safetensors", metadata={"format": "pt"})
    return folder

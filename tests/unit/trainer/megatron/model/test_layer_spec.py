"""Whose layers and whose attention a model gets."""

from __future__ import annotations

import sys
from importlib.machinery import ModuleSpec
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from rlscale.config.schema.model_config import DType
from rlscale.families import FAMILIES
from rlscale.platform.device import Platform
from rlscale.trainer.megatron.model import architecture
from rlscale.trainer.megatron.model.attention import takes_packed
from rlscale.trainer.megatron.model.layer_spec import uses_transformer_engine

CPU, CUDA = Platform(torch.device("cpu"), "gloo"), Platform(torch.device("cuda", 0), "nccl")


@pytest.mark.parametrize(
    ("platform", "dtype", "family", "used"),
    [
        (CUDA, DType.bfloat16, "qwen3", True),
        (CUDA, DType.float32, "qwen3", False),  # none of its attentions takes packed sequences in float32
        (CPU, DType.bfloat16, "qwen3", False),
        (CUDA, DType.bfloat16, "glm4", False),  # its linears have no norms behind them
    ],
)
def test_transformer_engine_is_for_bfloat16_on_a_gpu_and_fuses_rotary_positions_there(
    platform: Platform, dtype: DType, family: str, used: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec: Any = SimpleNamespace(model=SimpleNamespace(dtype=dtype), trainer=SimpleNamespace(deterministic=True))

    def choice() -> tuple[bool, bool]:
        fused = architecture._numbers(spec, platform, FAMILIES[family])["apply_rope_fusion"]
        return uses_transformer_engine(platform, getattr(torch, dtype.value), FAMILIES[family]), fused

    assert choice() == (False, False)
    package = ModuleType("transformer_engine")
    package.__spec__ = ModuleSpec("transformer_engine", None)
    monkeypatch.setitem(sys.modules, "transformer_engine", package)
    assert choice() == (used, used)


@pytest.mark.parametrize(
    ("changes", "device", "packed"),
    [
        ({}, "cuda", True),
        ({}, "cpu", False),
        ({"params_dtype": torch.float32}, "cuda", False),
        ({"attention_dropout": 0.1}, "cuda", False),
        ({"context_parallel_size": 2}, "cuda", False),
    ],
)
def test_flash_attention_takes_what_needs_no_batches(changes: dict[str, Any], device: str, packed: bool) -> None:
    options = {"params_dtype": torch.bfloat16, "attention_dropout": 0.0, "context_parallel_size": 1, **changes}
    config: Any = SimpleNamespace(**options)
    assert takes_packed(config, torch.device(device)) is packed

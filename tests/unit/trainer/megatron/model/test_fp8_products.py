"""What Megatron is told of training in FP8, and where that is refused."""

from __future__ import annotations

import importlib.metadata
import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from megatron.core.enums import Fp8Recipe
from megatron.core.fp8_utils import get_fp8_align_size
from megatron.core.transformer import TransformerConfig

from rlscale.config.errors import UserError
from rlscale.config.schema.parallel_config import ParallelConfig
from rlscale.config.schema.trainer_config import EightBits, TrainerConfig
from rlscale.families import FAMILIES
from rlscale.families.config_file import complete
from rlscale.platform.device import Platform
from rlscale.trainer.megatron.model.architecture import _eight_bits
from rlscale.trainer.megatron.model.fp8_products import check_eight_bits

CPU, CUDA = Platform(torch.device("cpu"), "gloo"), Platform(torch.device("cuda", 0), "nccl")
RECIPES = [EightBits.tensorwise, EightBits.blockwise, EightBits.mxfp8]
SIZES = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 1, "vocab_size": 64, "head_dim": 16}
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2}


def reason(
    platform: Platform,
    family: str = "qwen3",
    recipe: EightBits = EightBits.blockwise,
    layout: ParallelConfig | None = None,
    **sizes: int,
) -> str:
    """Why a model of a family is refused; empty where it is not."""
    hf = complete({"model_type": family, **SIZES, **HEADS, **sizes})
    architecture: Any = SimpleNamespace(family=FAMILIES[family], hf=hf)
    spec: Any = SimpleNamespace(trainer=TrainerConfig(fp8=recipe), parallel=layout or ParallelConfig())
    try:
        check_eight_bits(spec, platform, architecture)
    except UserError as error:
        return str(error)
    return ""


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Transformer Engine as it is asked: its version, and whether it can."""
    said: dict[str, Any] = {"version": "2.8.0", "blockwise": (True, ""), "mxfp8": (False, "not on 9.0.")}
    asked = SimpleNamespace(
        is_fp8_available=lambda: (True, ""),
        is_fp8_block_scaling_available=lambda: said["blockwise"],
        is_mxfp8_available=lambda: said["mxfp8"],
    )
    own = importlib.metadata.version
    versions = {"transformer_engine": lambda: said["version"]}
    monkeypatch.setattr(importlib.metadata, "version", lambda name: versions[name]() if name in versions else own(name))
    for name in ("transformer_engine", "transformer_engine.pytorch", "transformer_engine.pytorch.fp8"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    sys.modules["transformer_engine.pytorch.fp8"].FP8GlobalStateManager = asked  # type: ignore[attr-defined]  # stands in
    return said


@pytest.mark.parametrize("recipe", RECIPES)
def test_megatron_takes_each_recipe_and_asks_for_as_many_tokens(recipe: EightBits) -> None:
    config = TransformerConfig(num_layers=1, hidden_size=64, num_attention_heads=4, bf16=True, **_eight_bits(recipe))
    assert (config.fp8_recipe, config.fp8_param) == (recipe.value, False)
    assert recipe.multiple == get_fp8_align_size(Fp8Recipe[recipe.value])


def test_models_in_16_bits_are_told_nothing_of_it() -> None:
    assert _eight_bits(EightBits.none) == {}
    assert EightBits.none.multiple == 1
    assert reason(CPU, recipe=EightBits.none) == ""


def test_a_device_or_family_that_cannot_says_why() -> None:
    assert reason(CPU) == "trainer.fp8=blockwise: the CPU has no products of FP8; use none"
    assert "Transformer Engine has no layers of glm4; use none" in reason(CUDA, "glm4")
    assert "Transformer Engine is not installed" in reason(CUDA)


def test_transformer_engine_is_asked_whether_it_can(engine: dict[str, Any]) -> None:
    assert [reason(CUDA, recipe=recipe) for recipe in RECIPES[:2]] == ["", ""]
    assert reason(CUDA, recipe=EightBits.mxfp8) == "trainer.fp8=mxfp8: not on 9.0; use none"
    engine["version"] = "2.2.1"
    assert reason(CUDA, recipe=EightBits.tensorwise) == ""
    assert "Transformer Engine 2.2.1 does not have it, 2.3 does; use none" in reason(CUDA)


def test_rows_and_columns_of_every_linear_are_multiples_on_each_rank(engine: dict[str, Any]) -> None:
    two = ParallelConfig(tensor=2)
    assert reason(CUDA, layout=two) == ""
    assert "mlp.linear_fc2.weight is 64 x 40 on each rank, and 16 does not divide both" in reason(
        CUDA, intermediate_size=80, layout=two
    )
    assert "self_attention.linear_proj.weight is 64 x 24 on each rank" in reason(CUDA, head_dim=12, layout=two)
    engine["mxfp8"] = (True, "")
    assert reason(CUDA, recipe=EightBits.mxfp8) == ""
    assert "linear_fc2.weight is 64 x 48 on each rank, and 32 does not" in reason(
        CUDA, recipe=EightBits.mxfp8, layout=two
    )

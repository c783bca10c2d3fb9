"""What Megatron is told of training in FP8, and where that is refused."""

from __future__ import annotations

import sys
from importlib.machinery import ModuleSpec
from types import ModuleType

import pytest
import torch
from megatron.core.enums import Fp8Recipe
from megatron.core.fp8_utils import get_fp8_align_size
from megatron.core.transformer import TransformerConfig

from rlscale.config.errors import UserError
from rlscale.config.schema.trainer_config import EightBits
from rlscale.families import FAMILIES
from rlscale.platform.device import Platform
from rlscale.trainer.megatron.model.fp8_products import check_eight_bits, eight_bits

CPU, CUDA = Platform(torch.device("cpu"), "gloo"), Platform(torch.device("cuda", 0), "nccl")
RECIPES = [EightBits.tensorwise, EightBits.blockwise, EightBits.mxfp8]


@pytest.mark.parametrize("recipe", RECIPES)
def test_megatron_takes_each_recipe_and_asks_for_as_many_tokens(recipe: EightBits) -> None:
    config = TransformerConfig(num_layers=1, hidden_size=64, num_attention_heads=4, bf16=True, **eight_bits(recipe))
    assert (config.fp8_recipe, config.fp8_param) == (recipe.value, False)
    assert recipe.tokens == get_fp8_align_size(Fp8Recipe[recipe.value])


def test_models_in_16_bits_are_told_nothing_of_it() -> None:
    assert eight_bits(EightBits.none) == {}
    assert EightBits.none.tokens == 1


def test_a_device_or_family_that_cannot_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    def reason(platform: Platform, family: str, recipe: EightBits = EightBits.blockwise) -> str:
        with pytest.raises(UserError) as caught:
            check_eight_bits(recipe, platform, FAMILIES[family])
        return str(caught.value)

    assert reason(CPU, "qwen3") == "trainer.fp8=blockwise: the CPU has no products of FP8; use none"
    assert "Transformer Engine has no layers of glm4" in reason(CUDA, "glm4")
    assert "Transformer Engine is not installed" in reason(CUDA, "qwen3")
    package = ModuleType("transformer_engine")
    package.__spec__ = ModuleSpec("transformer_engine", None)
    monkeypatch.setitem(sys.modules, "transformer_engine", package)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))  # a Hopper
    check_eight_bits(EightBits.blockwise, CUDA, FAMILIES["qwen3"])
    assert "compute capability 9.0, and 10.0 is needed" in reason(CUDA, "qwen3", EightBits.mxfp8)

"""Products of layers' linears in FP8 (`trainer.fp8`), by Transformer Engine on GPUs."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from typing import Any

import torch

from rlscale.config.errors import UserError
from rlscale.config.schema.trainer_config import EightBits
from rlscale.families import Family
from rlscale.platform.device import Platform

_CAPABILITY = {EightBits.tensorwise: (8, 9), EightBits.blockwise: (9, 0), EightBits.mxfp8: (10, 0)}
"""The first generation of GPUs with kernels of a recipe: Ada, Hopper, Blackwell."""


def eight_bits(recipe: EightBits) -> dict[str, Any]:
    """Options of Megatron's TransformerConfig: the format of the numbers, and whose scales they have.

    Gradients have the wider range of e5m2 where a whole tensor shares a scale. Attention stays in 16 bits, and so do
    the parameters, which are what the optimizer moves and engines are sent.
    """
    if recipe is EightBits.none:
        return {}
    return {"fp8": "hybrid" if recipe is EightBits.tensorwise else "e4m3", "fp8_recipe": recipe.value}


def check_eight_bits(recipe: EightBits, platform: Platform, family: Family) -> None:
    """UserError where a model cannot be trained so on this device."""
    if not platform.is_cuda:
        reason = "the CPU has no products of FP8; use none"
    elif not family.of_transformer_engine:
        reason = f"Transformer Engine has no layers of {family.model_type}; use none"
    elif importlib.util.find_spec("transformer_engine") is None:
        reason = "Transformer Engine is not installed; install it (docs/gpus.md), or use none"
    elif (have := torch.cuda.get_device_capability(platform.device)) < (needed := _CAPABILITY[recipe]):
        reason = f"this GPU has compute capability {have[0]}.{have[1]}, and {needed[0]}.{needed[1]} is needed; use none"
    else:
        return
    raise UserError(f"trainer.fp8={recipe.value}: {reason}")


def drop_copies(modules: Iterator[torch.nn.Module]) -> None:
    """Give up the weights in FP8 that Transformer Engine's layers keep: the first micro-batch of a pass makes them."""
    for module in modules:
        getattr(module, "_fp8_workspaces", {}).clear()

"""Linears of layers in FP8 (`trainer.fp8`), by Transformer Engine on GPUs."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterator

import torch

from rlscale.config.errors import UserError
from rlscale.config.schema.trainer_config import EightBits
from rlscale.families.split_linears import not_multiple
from rlscale.platform.device import Platform
from rlscale.trainer.megatron.model.architecture import Architecture
from rlscale.trainer.trainer_spec import TrainerSpec

_ASKED = {
    EightBits.tensorwise: "is_fp8_available",
    EightBits.blockwise: "is_fp8_block_scaling_available",
    EightBits.mxfp8: "is_mxfp8_available",
}
"""What Transformer Engine is asked whether this GPU, and this CUDA, have kernels of a recipe."""


def check_eight_bits(spec: TrainerSpec, platform: Platform, architecture: Architecture) -> None:
    """UserError where a model cannot be trained as `trainer.fp8` says."""
    recipe = spec.trainer.fp8
    if recipe is EightBits.none:
        return
    family, ranks = architecture.family, (spec.parallel.tensor, spec.parallel.expert_tensor or 1)
    if not platform.is_cuda:
        reason = "the CPU has no products of FP8"
    elif not family.of_transformer_engine:
        reason = f"Transformer Engine has no layers of {family.model_type}"
    else:
        reason = not_multiple(architecture.hf, recipe.multiple, *ranks) or _not_here(recipe)
    if reason:
        raise UserError(f"trainer.fp8={recipe.value}: {reason}; use none")


def drop_copies(modules: Iterator[torch.nn.Module]) -> None:
    """Give up the weights in FP8 that Transformer Engine's layers keep: the first micro-batch of a pass makes them."""
    for module in modules:
        getattr(module, "_fp8_workspaces", {}).clear()


def _not_here(recipe: EightBits) -> str:
    """Why this machine has no kernels of a recipe; empty where it has."""
    try:
        have = importlib.metadata.version("transformer_engine")
    except importlib.metadata.PackageNotFoundError:
        return "Transformer Engine is not installed (docs/gpus.md)"
    if not recipe.is_in(have):
        return f"Transformer Engine {have} does not have it, {'.'.join(map(str, recipe.since))} does"
    from transformer_engine.pytorch.fp8 import FP8GlobalStateManager  # where it is installed

    able, reason = getattr(FP8GlobalStateManager, _ASKED[recipe])()
    return "" if able else str(reason).rstrip(".")

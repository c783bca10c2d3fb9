"""Norms of some of a model's gradients, by Megatron's rules: each number once, over all ranks.

A layer that is trained by a loss of its own is clipped by a norm of its own. Else the size of its gradient would decide
how far the policy moves, which nothing of that loss may reach.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from typing import Any

from megatron.core.optimizer.clip_grads import clip_grad_by_total_norm_fp32, get_grad_norm_fp32
from megatron.core.tensor_parallel import param_is_not_tensor_parallel_duplicate
from megatron.core.transformer.module import param_is_not_shared
from torch import Tensor

Chosen = Callable[[Tensor], bool]
"""Which of an optimizer's parameters are meant."""

_PAIRS = (
    ("float16_groups", "fp32_from_float16_groups"),
    ("model_float16_groups", "shard_fp32_from_float16_groups"),
    ("model_float16_groups", "shard_float16_groups"),
    ("model_fp32_groups", "shard_fp32_groups"),
)
"""Where Megatron's optimizers keep parameters of the model, and what they step in their place."""


def stepped_for(megatron: Any, parameters: Collection[Tensor]) -> set[Tensor]:
    """What a (chained) optimizer steps for these parameters of the model: themselves, float32 copies, or shards."""
    own = set(parameters)
    stepped = set(own)
    for chained in megatron.chained_optimizers:
        for of_model, kept in _PAIRS:
            for groups in zip(getattr(chained, of_model, ()), getattr(chained, kept, ()), strict=True):
                stepped |= {main for model, main in zip(*groups, strict=True) if model in own and main is not None}
    return stepped


def grad_norm(megatron: Any, chosen: Chosen) -> float:
    """Norm of the chosen parameters' gradients over all ranks, as `ChainedOptimizer.get_grad_norm`. Collective."""
    every = megatron.chained_optimizers
    if len(every) == 1 or megatron.grads_states_parallel_group_is_shared():
        grads = [grad for one in every for grad in _counted(one, chosen)]
        return float(get_grad_norm_fp32(grads, grad_stats_parallel_group=megatron.get_grad_stats_parallel_group()))
    norms = (
        get_grad_norm_fp32(_counted(one, chosen), grad_stats_parallel_group=one.get_grad_stats_parallel_group())
        for one in every
    )
    return math.sqrt(sum(float(norm) ** 2 for norm in norms))


def clip(megatron: Any, chosen: Chosen, most: float, norm: float) -> None:
    """Scale the chosen parameters' gradients so that their norm is at most `most`."""
    for one in megatron.chained_optimizers:
        parameters = [parameter for parameter in _parameters(one) if chosen(parameter)]
        if parameters:
            clip_grad_by_total_norm_fp32(parameters, most, norm, _decoupled(one))


def _counted(one: Any, chosen: Chosen) -> list[Tensor]:
    """The chosen gradients that count on this rank: `MegatronOptimizer.get_main_grads_for_grad_norm` for some."""
    name, group = "decoupled_grad" if _decoupled(one) else "grad", getattr(one, "tp_group", None)
    return [
        grad
        for parameter in _parameters(one)
        if chosen(parameter)
        and (grad := getattr(parameter, name, None)) is not None
        and param_is_not_shared(parameter)
        and param_is_not_tensor_parallel_duplicate(parameter, group)
    ]


def _parameters(one: Any) -> list[Tensor]:
    return [] if getattr(one, "is_stub_optimizer", False) else one.get_parameters()


def _decoupled(one: Any) -> bool:
    return bool(one.config.use_precision_aware_optimizer_no_fp8_or_ds_fp8)

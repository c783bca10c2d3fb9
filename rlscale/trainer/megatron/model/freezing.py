"""Parameters that are not trained: no gradient, no gradient buffer, no optimizer state; they keep their bits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from megatron.core.models.gpt.gpt_model import GPTModel
from torch import Tensor

from rlscale.config.errors import UserError
from rlscale.trainer.megatron.model.expert_router import routed_layers
from rlscale.trainer.megatron.model.named_parameters import NamedParameters
from rlscale.weights.mapping import WeightMap
from rlscale.weights.parameters import ModelGroups


def freeze(
    chunks: Sequence[GPTModel], weights: WeightMap, patterns: Sequence[str], key: str, *, distributed_optimizer: bool
) -> None:
    """Freeze what `trainer.frozen` names; before Megatron's DDP is put around the model. Collective if there are any.

    `key` is what the user calls the setting. UserError for a pattern that does not fit, when nothing is left, or for
    what could be trained but never be saved.
    """
    if not patterns:
        return
    parameters = NamedParameters(chunks, weights, ModelGroups.of_megatron())
    for pattern in patterns:
        for parameter in parameters.matching(pattern, key):
            parameter.requires_grad_(False)
    trained = any(parameter.requires_grad for chunk in chunks for parameter in chunk.parameters())
    everywhere: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(everywhere, (trained, _trained_experts(chunks)))
    given = f"{key}={', '.join(patterns)}"
    if not any(some for some, _ in everywhere):
        raise UserError(f"{given}: leaves no parameter to train; name fewer")
    if distributed_optimizer and not all(some for some, _ in everywhere):
        raise UserError(
            f"{given}: leaves a pipeline stage without a parameter to train, whose distributed optimizer could not be "
            "saved; set trainer.distributed_optimizer=false, or name fewer"
        )
    experts = set.union(*(own for _, own in everywhere))
    mixed = sorted(place for place, trains in experts if trains and (place, False) in experts)
    if mixed:
        raise UserError(
            f"{given}: names some experts of layer {mixed[0][0] - 1} and not others, whose optimizer could not be "
            "saved; name all experts of a layer (model.layers.N.mlp.experts.*) or none"
        )
    for chunk in chunks:
        keep_gradients_flowing(chunk)


def _trained_experts(chunks: Sequence[GPTModel]) -> set[tuple[tuple[int, str], bool]]:
    """((layer from 1, linear), whether one of its experts here is trained), for each that occurs."""
    return {
        ((layer.layer_number, linear), parameter.requires_grad)
        for chunk in chunks
        for layer in routed_layers(chunk, mtp=True)
        for linear in ("linear_fc1", "linear_fc2")
        for parameter in getattr(layer.mlp.experts, linear).parameters()
    }


def keep_gradients_flowing(chunk: GPTModel) -> None:
    """What is computed again passes a gradient on only if its input has one, and behind frozen layers it does not."""
    frozen = chunk.pre_process and not any(p.requires_grad for p in chunk.embedding.parameters())
    if frozen and chunk.config.recompute_granularity is not None:
        chunk.embedding.register_forward_hook(_with_gradient)


def _with_gradient(module: torch.nn.Module, inputs: Any, output: Tensor) -> Tensor:
    return output.requires_grad_() if torch.is_grad_enabled() else output

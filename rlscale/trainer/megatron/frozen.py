"""Parameters that are not trained: no gradient, no gradient buffer, no optimizer state; they keep their bits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from megatron.core.models.gpt.gpt_model import GPTModel
from torch import Tensor

from rlscale.config.errors import UserError
from rlscale.trainer.megatron.patterns import NamedParameters
from rlscale.weights.mapping import WeightMap
from rlscale.weights.parameters import ModelGroups


def freeze(chunks: Sequence[GPTModel], weights: WeightMap, patterns: Sequence[str], key: str) -> None:
    """Freeze what `trainer.frozen` names; before Megatron's DDP is put around the model. Collective if there are any.

    `key` is what the user calls the setting. UserError for a pattern that does not fit, or when nothing is left.
    """
    if not patterns:
        return
    parameters = NamedParameters(chunks, weights, ModelGroups.of_megatron())
    for pattern in patterns:
        for parameter in parameters.matching(pattern, key):
            parameter.requires_grad_(False)
    trained = any(parameter.requires_grad for chunk in chunks for parameter in chunk.parameters())
    anywhere: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(anywhere, trained)
    if not any(anywhere):
        raise UserError(f"{key}={', '.join(patterns)}: leaves no parameter to train; name fewer")
    for chunk in chunks:
        _keep_gradients_flowing(chunk)


def _keep_gradients_flowing(chunk: GPTModel) -> None:
    """Recomputed layers pass a gradient on only if their input has one, which that of a frozen embedding has not."""
    frozen = chunk.pre_process and not any(p.requires_grad for p in chunk.embedding.parameters())
    if frozen and chunk.config.recompute_granularity == "full":
        chunk.embedding.register_forward_hook(_with_gradient)


def _with_gradient(module: torch.nn.Module, inputs: Any, output: Tensor) -> Tensor:
    return output.requires_grad_() if torch.is_grad_enabled() else output

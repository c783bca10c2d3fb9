"""The A and B of a model's adapters as peft names and shapes them, gathered over all ranks of the model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from rlscale.trainer.megatron.model.adapters import Adapters
from rlscale.weights.parameters import EXPERTS, ModelGroups

_MATRICES = {"a": "lora_A", "b": "lora_B"}


def peft_name(linear: str, matrix: str) -> str:
    """Of a linear by its name in Hugging Face's form, and `a` or `b`."""
    return f"base_model.model.{linear}.{_MATRICES[matrix]}.weight"


@torch.no_grad()
def peft_tensors(
    adapters: Adapters, groups: ModelGroups, of: Callable[[Tensor], Tensor] = Tensor.detach
) -> dict[str, Tensor]:
    """Whole matrices in host memory by peft's names, on every rank, sorted by name. Collective.

    `of` gives what is gathered for each parameter: the parameter itself, or its gradient.
    """
    outside: dict[str, Tensor] = {}
    experts: dict[str, Tensor] = {}
    for linear, factors in adapters.factors():
        group = tensor_group(linear, groups)
        for matrix in _MATRICES:
            tensor, dimension = of(getattr(factors, matrix)).contiguous(), factors.dimension(matrix)
            if dimension is not None and group.size() > 1:
                shards = [torch.empty_like(tensor) for _ in range(group.size())]
                dist.all_gather(shards, tensor, group=group)
                tensor = torch.cat(shards, dim=dimension)
            (experts if _is_of_expert(linear) else outside)[peft_name(linear, matrix)] = tensor.cpu().clone()
    own = outside | _everywhere(experts, groups.expert)
    return dict(sorted(_everywhere(own, groups.pipeline).items()))


def tensor_group(linear: str, groups: ModelGroups) -> Any:
    """The ranks over which a linear of that name is cut."""
    return groups.expert_tensor if _is_of_expert(linear) else groups.tensor


def _is_of_expert(linear: str) -> bool:
    return EXPERTS in linear


def _everywhere(own: dict[str, Tensor], group: Any) -> dict[str, Tensor]:
    """The tensors of all ranks of a group."""
    if group.size() == 1:
        return own
    of_ranks: list[dict[str, Tensor]] = [{} for _ in range(group.size())]
    dist.all_gather_object(of_ranks, own, group=group)
    return {name: tensor for tensors in of_ranks for name, tensor in tensors.items()}


@torch.no_grad()
def put_peft_tensors(adapters: Adapters, groups: ModelGroups, tensors: dict[str, Tensor]) -> list[str]:
    """Fill this rank's part of every A and B. Returns the names that are missing or of another shape."""
    wrong = []
    for linear, factors in adapters.factors():
        group = tensor_group(linear, groups)
        for matrix in _MATRICES:
            name, parameter, dimension = peft_name(linear, matrix), getattr(factors, matrix), factors.dimension(matrix)
            tensor = tensors.get(name)
            if tensor is not None and dimension is not None and tensor.shape[dimension] % group.size() == 0:
                tensor = tensor.chunk(group.size(), dim=dimension)[group.rank()]
            if tensor is None or tensor.shape != parameter.shape:
                wrong.append(name)
            else:
                parameter.copy_(tensor)
    return wrong

"""The A and B of a model's adapters as peft names and shapes them, gathered over all ranks of the model."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.distributed as dist
from torch import Tensor

from rlscale.trainer.megatron.model.adapters import Adapters
from rlscale.weights.parameters import ModelGroups

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
    own: dict[str, Tensor] = {}
    for linear, factors in adapters.factors():
        for matrix in _MATRICES:
            tensor, dimension = of(getattr(factors, matrix)).contiguous(), factors.dimension(matrix)
            if dimension is not None and groups.tensor.size() > 1:
                shards = [torch.empty_like(tensor) for _ in range(groups.tensor.size())]
                dist.all_gather(shards, tensor, group=groups.tensor)
                tensor = torch.cat(shards, dim=dimension)
            own[peft_name(linear, matrix)] = tensor.cpu().clone()
    stages: list[dict[str, Tensor]] = [own]
    if groups.pipeline.size() > 1:
        stages = [{} for _ in range(groups.pipeline.size())]
        dist.all_gather_object(stages, own, group=groups.pipeline)
    return dict(sorted((name, tensor) for stage in stages for name, tensor in stage.items()))


@torch.no_grad()
def put_peft_tensors(adapters: Adapters, groups: ModelGroups, tensors: dict[str, Tensor]) -> list[str]:
    """Fill this rank's part of every A and B. Returns the names that are missing or of another shape."""
    wrong = []
    for linear, factors in adapters.factors():
        for matrix in _MATRICES:
            name, parameter, dimension = peft_name(linear, matrix), getattr(factors, matrix), factors.dimension(matrix)
            tensor = tensors.get(name)
            if tensor is not None and dimension is not None and tensor.shape[dimension] % groups.tensor.size() == 0:
                tensor = tensor.chunk(groups.tensor.size(), dim=dimension)[groups.tensor.rank()]
            if tensor is None or tensor.shape != parameter.shape:
                wrong.append(name)
            else:
                parameter.copy_(tensor)
    return wrong

"""A frozen policy beside the trained one: its weights lie in host memory and take the model's place for a pass."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from rlscale.trainer.megatron.model import Model


class FrozenWeights:
    """A copy of a model's weights as they are now."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._frozen = [_host_copy(parameter.data) for parameter in model.parameters()]

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Within the block the model computes with the frozen weights. Forward passes only."""
        parameters = self._model.parameters()
        on_cpu = not parameters[0].is_cuda
        saved = [parameter.data if on_cpu else _host_copy(parameter.data) for parameter in parameters]
        try:
            _put(parameters, self._frozen, on_cpu)
            yield
        finally:
            _put(parameters, saved, on_cpu)


def _put(parameters: list[torch.nn.Parameter], values: list[torch.Tensor], on_cpu: bool) -> None:
    """On the CPU the parameters point to other memory, elsewhere the values are copied into theirs."""
    with torch.no_grad():
        for parameter, value in zip(parameters, values, strict=True):
            if on_cpu:
                parameter.data = value
            else:
                parameter.data.copy_(value, non_blocking=True)


def _host_copy(tensor: torch.Tensor) -> torch.Tensor:
    copy = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=tensor.is_cuda)
    return copy.copy_(tensor)

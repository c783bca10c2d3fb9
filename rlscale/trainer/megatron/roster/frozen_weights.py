"""Frozen weights beside the trained ones: they lie in host memory and take their place in the model for a pass."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from rlscale.platform.device import host_copy
from rlscale.trainer.megatron.disk.starting_weights import load_folder
from rlscale.trainer.megatron.model.model import Model


class FrozenWeights:
    """Weights that a model can compute with in the place of its own."""

    def __init__(self, model: Model, parameters: list[torch.nn.Parameter] | None = None) -> None:
        """A copy of the model's weights as they are now: of `parameters`, by default all in which versions differ."""
        self._model = model
        self._parameters = model.versioned() if parameters is None else parameters
        model.finish_gathering()
        self._frozen = [host_copy(parameter.data) for parameter in self._parameters]

    @classmethod
    def of_folder(cls, model: Model, folder: str) -> FrozenWeights:
        """The weights of a Hugging Face folder of the same architecture. UserError if they do not fit.

        The model has its own again afterwards.
        """
        own = cls(model, model.parameters())
        load_folder(model, folder, mtp=False)  # forward passes do without that layer
        frozen = cls(model, model.parameters())
        _put(model.parameters(), own._frozen, point=False)
        return frozen

    @property
    def tensors(self) -> list[torch.Tensor]:
        """They themselves, in host memory."""
        return self._frozen

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Within the block the model computes with the frozen weights. Forward passes only."""
        self._model.finish_gathering()
        parameters = self._parameters
        on_cpu = not parameters[0].is_cuda
        saved = [parameter.data if on_cpu else host_copy(parameter.data) for parameter in parameters]
        try:
            _put(parameters, self._frozen, point=on_cpu)
            yield
        finally:
            _put(parameters, saved, point=on_cpu)


def _put(parameters: list[torch.nn.Parameter], values: list[torch.Tensor], *, point: bool) -> None:
    """With `point` the parameters point to the values' memory (on the CPU), else the values are copied into theirs."""
    with torch.no_grad():
        for parameter, value in zip(parameters, values, strict=True):
            if point:
                parameter.data = value
            else:
                parameter.data.copy_(value, non_blocking=True)

"""What every encoding has: a weight becomes codes and scales under the names that engines load, and a weight again."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

from rlscale.families.quantisation import Quantisation
from rlscale.families.served_form import ServedForm
from rlscale.weights.dequantise import dequantised


class Encoding(ABC):
    """How matrices are quantised in one form."""

    codes: str = "weight"
    """What the name of a module's codes ends in."""
    scales: str = "weight_scale"
    """What the name of their scales ends in."""

    def __init__(self, form: ServedForm) -> None:
        assert form.quantisation is not None
        self.form: ServedForm = form
        self.quantisation: Quantisation = form.quantisation

    @abstractmethod
    def encode(self, weight: Tensor) -> dict[str, Tensor]:
        """What an engine holds of a weight [rows, columns] of any type, by the endings of its names."""

    def decode(self, encoded: Mapping[str, Tensor], shape: tuple[int, int]) -> Tensor:
        """The weight [rows, columns] that an engine computes with, in float32 before it is rounded to its type."""
        return dequantised(encoded[self.codes], encoded[self.scales], self.quantisation, shape)

    @torch.no_grad()
    def rounded(self, weight: Tensor) -> Tensor:
        """A weight as engines compute with it, in its own type."""
        rows, columns = weight.shape
        return self.decode(self.encode(weight), (rows, columns)).to(weight.dtype)

    def named(self, name: str, weight: Tensor) -> list[tuple[str, Tensor]]:
        """What engines are sent of the Hugging Face tensor `name`, which the form quantises."""
        stem = name.removesuffix("weight")
        return [(stem + ending, tensor) for ending, tensor in self.encode(weight).items()]

    def largest(self, weight: Tensor) -> Tensor:
        """The largest magnitude in each rectangle that shares a scale, float32; those at the edges may be smaller."""
        rows, columns = self.quantisation.rows or len(weight), self.quantisation.columns or weight.shape[1]
        padded = F.pad(weight.abs(), (0, -weight.shape[1] % columns, 0, -len(weight) % rows))
        return padded.unflatten(1, (-1, columns)).unflatten(0, (-1, rows)).amax((1, 3)).float()

"""FP8 (e4m3) with a float32 scale for each block or tensor. Engines multiply by the scale, whatever its name says."""

from __future__ import annotations

import torch
from torch import Tensor

from rlscale.weights.dequantise import over_weight
from rlscale.weights.encode.encoding import Encoding

LARGEST = 448.0
"""The largest number of e4m3; what is above it must be cut off, as there is no infinity to round it to."""


class _ScaledFp8(Encoding):
    """The largest magnitude that shares a scale becomes 448."""

    smallest: float
    """What the largest magnitude counts as at the least, so that zeros have a scale."""

    @torch.no_grad()
    def encode(self, weight: Tensor) -> dict[str, Tensor]:
        rows, columns = weight.shape
        scales = self.largest(weight).clamp_(min=self.smallest).div_(LARGEST)
        codes = weight.float() / over_weight(scales, self.quantisation, (rows, columns))
        return {self.codes: codes.clamp_(-LARGEST, LARGEST).to(torch.float8_e4m3fn), self.scales: self._shaped(scales)}

    def _shaped(self, scales: Tensor) -> Tensor:
        return scales


class Fp8Block(_ScaledFp8):
    """A scale for each block of 128 x 128, as DeepSeek-V3 (arXiv 2412.19437, section 3.3) is published.

    Blocks at the edges of a weight are smaller.
    """

    scales = "weight_scale_inv"
    smallest = 1e-10


class Fp8Tensor(_ScaledFp8):
    """One scale for each tensor."""

    smallest = 1e-12

    def _shaped(self, scales: Tensor) -> Tensor:
        return scales.reshape(1)

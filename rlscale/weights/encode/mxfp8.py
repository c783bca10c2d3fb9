"""MXFP8: FP8 (e4m3) with a power of two for each 32 columns, held as its exponent + 127 (OCP Microscaling, E8M0)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from rlscale.weights.dequantise import dequantised, over_weight
from rlscale.weights.encode.encoding import Encoding
from rlscale.weights.encode.fp8 import LARGEST

_BIAS = 127


class MxFp8(Encoding):
    """The scale is the smallest power of two with which no number is above 448, as in Transformer Engine."""

    scales = "weight_scale_inv"

    @torch.no_grad()
    def encode(self, weight: Tensor) -> dict[str, Tensor]:
        rows, columns = weight.shape
        ratio = self.largest(weight) / LARGEST
        mantissas, exponents = torch.frexp(ratio)  # mantissas from 0.5; a power of two has 0.5
        exponents = torch.where(mantissas > 0.5, exponents, exponents - 1).clamp_(-_BIAS, _BIAS)
        exponents = torch.where(ratio == 0, -_BIAS, exponents)
        codes = torch.ldexp(weight.float(), -over_weight(exponents, self.quantisation, (rows, columns)))
        codes = codes.clamp_(-LARGEST, LARGEST).to(torch.float8_e4m3fn)
        return {self.codes: codes, self.scales: (exponents + _BIAS).to(torch.uint8)}

    def decode(self, encoded: Mapping[str, Tensor], shape: tuple[int, int]) -> Tensor:
        """See Encoding."""
        exponents = encoded[self.scales].to(torch.int32) - _BIAS
        scales = torch.ldexp(torch.ones_like(exponents, dtype=torch.float32), exponents)
        return dequantised(encoded[self.codes], scales, self.quantisation, shape)

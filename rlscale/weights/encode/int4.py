"""Whole numbers of 4 bits, eight to a word, with a scale for each group of columns (`pack-quantized`, W4A16)."""

from __future__ import annotations

import torch
from torch import Tensor

from rlscale.families.served_form import Int4Grid
from rlscale.weights.encode.encoding import Encoding

_BITS, _PER_WORD = 4, 8
_GRIDS = {Int4Grid.symmetric: (7.0, -7), Int4Grid.full: (7.5, -8)}
"""What the largest magnitude of a group becomes before it is rounded, and the smallest code. The largest is 7."""


class Int4(Encoding):
    """Symmetric, without zero points. The scale is rounded once, to the type of the weight, and then divided by.

    There is no floor under it: groups of very small numbers keep them, and a group of zeros has scale 0.
    Packing: `compressed_tensors.compressors.pack_quantized` (0.18).
    """

    codes = "weight_packed"

    @torch.no_grad()
    def encode(self, weight: Tensor) -> dict[str, Tensor]:
        largest, lowest = _GRIDS[self.form.grid]
        scales = (self.largest(weight) / largest).to(weight.dtype)
        divisors = torch.where(scales == 0, 1.0, scales.float())
        whole = weight.float().unflatten(1, (-1, self.form.group)) / divisors.unsqueeze(-1)
        whole = whole.round_().clamp_(lowest, 7).flatten(1)
        shape = torch.tensor(weight.shape, dtype=torch.int32, device=weight.device)
        return {self.codes: _packed(whole.to(torch.int32)), self.scales: scales, "weight_shape": shape}


def _packed(whole: Tensor) -> Tensor:
    """[rows, columns] from -8 to 7 -> int32 [rows, columns / 8], stored without sign, the first in the lowest bits."""
    shifts = torch.arange(0, 32, _BITS, dtype=torch.int32, device=whole.device)
    bits = (whole + 2 ** (_BITS - 1)).unflatten(1, (-1, _PER_WORD)) << shifts
    return bits.sum(-1, dtype=torch.int32)  # no two have a bit in common

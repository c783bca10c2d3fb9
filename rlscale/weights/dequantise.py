"""Numbers of quantised weights: codes times scales, in float32."""

from __future__ import annotations

import torch
from torch import Tensor

from rlscale.families.quantisation import Quantisation


def dequantised(codes: Tensor, scales: Tensor, quantisation: Quantisation, shape: tuple[int, int]) -> Tensor:
    """The weight [rows, columns] of its codes and their scales.

    FP8 codes have the weight's shape, packed ones [rows, columns x bits / 32] (int32). The scales have one number for
    each rectangle of `quantisation`, in any of the shapes that tools give them.
    """
    numbers = codes.float() if quantisation.bits is None else _unpacked(codes, quantisation.bits)
    return numbers.mul_(over_weight(scales.float(), quantisation, shape))


def over_weight(scales: Tensor, quantisation: Quantisation, shape: tuple[int, int]) -> Tensor:
    """A scale for each number of a weight [rows, columns], in a shape that broadcasts to it."""
    grid = scales.reshape(quantisation.grid(shape))
    return _spread(_spread(grid, 0, quantisation.rows, shape[0]), 1, quantisation.columns, shape[1])


def _unpacked(codes: Tensor, bits: int) -> Tensor:
    """Whole numbers out of int32, the lowest bits first, stored without sign: 0 is the smallest of them.

    Source: `compressed_tensors.compressors.pack_quantized` (0.18).
    """
    shifts = torch.arange(0, 32, bits, dtype=torch.int32, device=codes.device)
    whole = (codes.unsqueeze(-1) >> shifts) & (2**bits - 1)
    return whole.flatten(-2).sub_(2 ** (bits - 1)).float()


def _spread(scales: Tensor, dim: int, times: int, size: int) -> Tensor:
    """Scales for each row or column, of which `times` share one; as they are where all share it."""
    return scales if scales.shape[dim] == 1 else scales.repeat_interleave(times, dim).narrow(dim, 0, size)

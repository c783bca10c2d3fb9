"""Activations as SGLang's kernels for GPUs quantise them before a product: to FP8 (e4m3), with scales found each time.

Every function takes activations [tokens, inputs] of any type and gives what their codes are worth, float32 of that
shape. The kernels: sglang/kernels/jit/csrc/gemm, files per_token_group_quant.cuh, per_token_quant_fp8.cuh and
per_tensor_quant_fp8.cuh; of MXFP8 the definition (OCP Microscaling, E8M0), whose kernels are FlashInfer's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

Rounding = Callable[[Tensor], Tensor]

_LARGEST = 448.0
_SMALLEST = 1e-10
"""What the largest magnitude of a group counts as at the least."""


def by_group(x: Tensor, columns: int) -> Tensor:
    """A scale for each token and that many columns, which divide the inputs (FP8 by block)."""
    grouped = x.float().unflatten(-1, (-1, columns))
    largest = grouped.abs().amax(-1, keepdim=True).clamp_(min=_SMALLEST)
    factors = torch.full_like(largest, _LARGEST).div_(largest)  # a number / tensor would be rounded twice
    return (_codes(grouped * factors) * (largest * (1 / _LARGEST))).flatten(-2)


def by_token(x: Tensor) -> Tensor:
    """A scale for each token (linears in FP8 by tensor)."""
    return _scaled(x.float(), x.float().abs().amax(-1, keepdim=True) / _LARGEST)


def by_batch(x: Tensor) -> Tensor:
    """One scale for all tokens that are computed at once, whoever's they are (experts in FP8 by tensor)."""
    return x.float() if x.numel() == 0 else _scaled(x.float(), x.float().abs().amax() / _LARGEST)


def by_power_of_two(x: Tensor, columns: int) -> Tensor:
    """For each token and that many columns the smallest power of two with which no number is above 448 (MXFP8)."""
    grouped = x.float().unflatten(-1, (-1, columns))
    mantissas, exponents = torch.frexp(grouped.abs().amax(-1, keepdim=True) / _LARGEST)  # mantissas from 0.5
    exponents = torch.where(mantissas > 0.5, exponents, exponents - 1).clamp_(-127, 127)
    return torch.ldexp(_codes(torch.ldexp(grouped, -exponents)), exponents).flatten(-2)


def expert_products(
    x: Tensor, chosen: Tensor, shares: Tensor, first: Callable[[int], Tensor], second: Callable[[int], Tensor], of: Any
) -> Tensor:
    """What a layer of experts gives for x [tokens, hidden], each product with its inputs rounded by `of`.

    Shapes: `chosen` [tokens, k] numbers of experts, `shares` [tokens, k] how much of each; `first(expert)` gate above
    up [2 x inner, hidden], `second(expert)` [hidden, inner], float32. What lies between is of x's type.
    """
    rounded = of(x)
    tokens, places = torch.ones_like(chosen, dtype=torch.bool).nonzero(as_tuple=True)
    experts = chosen[tokens, places]
    present = experts.unique().tolist()
    inner: Tensor | None = None
    for expert in present:
        at = (experts == expert).nonzero()[:, 0]
        gate, up = F.linear(rounded[tokens[at]], first(expert)).to(x.dtype).chunk(2, dim=-1)
        inner = x.new_empty(len(experts), up.shape[1]) if inner is None else inner
        inner[at] = F.silu(gate) * up
    if inner is None:
        return torch.zeros_like(x)
    inner, outputs = of(inner), x.new_empty(len(experts), x.shape[1])
    for expert in present:
        at = (experts == expert).nonzero()[:, 0]
        outputs[at] = F.linear(inner[at], second(expert)).to(x.dtype)
    weighted = outputs.view(*chosen.shape, -1).to(shares.dtype) * shares.unsqueeze(-1)
    return weighted.sum(1).to(x.dtype)


def _scaled(x: Tensor, scales: Tensor) -> Tensor:
    return _codes(x * torch.where(scales == 0, 0.0, 1 / scales)) * scales


def _codes(numbers: Tensor) -> Tensor:
    return numbers.clamp(-_LARGEST, _LARGEST).to(torch.float8_e4m3fn).float()

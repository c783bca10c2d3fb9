"""Numbers of which a sum is nothing but rounding, so that in most sums another order shows.

For asking a machine whether two ways of computing sum in one order. Results in 16 bits of ordinary numbers would not
tell: they are the same in all but one of ten thousand.
"""

from __future__ import annotations

import torch
from torch import Tensor


def factors(left: tuple[int, ...], right: tuple[int, ...], size: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """[*left, size] and [*right, size]: the products of any two rows add up to 0. Always the same numbers."""
    order = torch.randperm(size, generator=_seeded())
    one, other = _drawn((*left, size // 2), dtype, 1), _drawn((*right, size // 2), dtype, 2)
    rest = (_drawn((*shape, size % 2), dtype, 3) * 0 for shape in (left, right))
    pairs = ((one, one), (other, -other))
    first, second = (torch.cat([*pair, none], -1)[..., order] for pair, none in zip(pairs, rest, strict=True))
    return first.contiguous(), second.contiguous()


def terms(before: tuple[int, ...], number: int, together: int, width: int, dtype: torch.dtype) -> Tensor:
    """[*before, number, width]: of each `together`, one after the other, the sum is 0. Always the same numbers."""
    groups, order = -(-number // together), torch.randperm(together, generator=_seeded())
    half = _drawn((*before, groups, together // 2, width), dtype, 4)
    return torch.cat([half, -half], -2)[..., order, :].flatten(-3, -2)[..., :number, :].contiguous()


def _drawn(shape: tuple[int, ...], dtype: torch.dtype, seed: int) -> Tensor:
    return torch.randn(shape, generator=_seeded(seed)).to(dtype)


def _seeded(seed: int = 0) -> torch.Generator:
    """One of its own: torch's may be somebody's stream."""
    return torch.Generator().manual_seed(seed)

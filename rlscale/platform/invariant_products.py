"""Matrix products of which a row has the same bits whatever rows are beside it.

A library chooses the order of a product's sums by its shape. So a product is made of tiles of `TILE` rows, and of
larger and smaller ones where this machine, asked, gives a row the same bits in them.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from rlscale.platform.cancelling_numbers import factors

TILE = 64
"""Rows of a tile, where there are not enough of them filled up."""

LARGER, SMALLER = (2048, 1024, 768, 512, 256, 128), 16
"""Rows of tiles that take less time, used for weights of which they give a row the bits that it has among `TILE`."""

FILLED = 3
"""A larger tile takes less time than several of `TILE` if at least one row of so many in it is filled."""

OUTPUTS = 16
"""Columns of a product at the least: fewer are filled up, because libraries take other kernels for them."""

_LINE = 64
"""Bytes of a cache line."""


@dataclass(frozen=True)
class Tiles:
    """How products with weights of one shape and type are cut on this machine."""

    weight_first: bool
    """Whether tiles of up to `TILE` rows are W x^T. The number of rows of the left side, by which a library chooses its
    order, is then the weight's: it sums for few tokens as it does for many, and lays out less anew."""
    sizes: tuple[int, ...]
    """Of `LARGER` and `SMALLER` those that give rows the bits of a tile of `TILE`."""

    def cut(self, rows: int) -> Iterator[tuple[int, int, int]]:
        """Start and end of each tile, and its size, which the last may not fill."""
        start = 0
        while start < rows:
            size = self._next(rows - start)
            yield start, min(start + size, rows), size
            start += size

    def _next(self, left: int) -> int:
        """Rows of a tile where so many are left."""
        if left <= TILE:
            return SMALLER if left <= SMALLER and SMALLER in self.sizes else TILE
        worth = [size for size in LARGER if size in self.sizes and size <= FILLED * left]
        return next((size for size in worth if size <= left), worth[-1] if worth else TILE)


def product(x: Tensor, weight: Tensor) -> Tensor:
    """x W^T: [n, in], [out, in] -> [n, out], without gradient."""
    rows, outputs = len(x), len(weight)
    weight = F.pad(weight, (0, 0, 0, OUTPUTS - outputs)) if outputs < OUTPUTS else _aligned(weight)
    x, tiles = _aligned(x), tiles_of(*weight.shape, x.dtype)
    cut = list(tiles.cut(rows))
    if len(cut) == 1:  # as in most steps of an engine
        return _tile(x, weight, cut[0][2], tiles.weight_first)[:, :outputs]
    result = x.new_empty(rows, len(weight))
    for start, end, size in cut:
        if end - start == size > TILE:
            torch.mm(x[start:end], weight.t(), out=result[start:end])
        else:
            result[start:end] = _tile(x[start:end], weight, size, tiles.weight_first)
    return result[:, :outputs]


def _tile(x: Tensor, weight: Tensor, size: int, weight_first: bool) -> Tensor:
    """The product of at most `size` rows as of so many."""
    rows = len(x)
    x = F.pad(x, (0, 0, 0, size - rows)) if rows < size else x
    if size <= TILE and weight_first:
        return torch.mm(weight, x.t()).t().contiguous()[:rows]
    return torch.mm(x, weight.t())[:rows]


@functools.cache
def tiles_of(outputs: int, inputs: int, dtype: torch.dtype) -> Tiles:
    """The tiles of a weight of that shape: of two orders of small ones that with which the larger ones agree.

    The libraries behind it promise nothing: in 16 bits some sizes are summed in another order, by the weight's shape.
    In float32 the weight does not stand first: nothing would be gained, and results have to be laid out anew.
    """
    x, weight = factors((TILE,), (outputs,), inputs, dtype)
    orders = (True, False) if dtype is torch.bfloat16 else (False,)
    wanted = [_tile(x, weight, TILE, weight_first) for weight_first in orders]
    agreeing: list[list[int]] = [[] for _ in orders]
    for size in LARGER:
        rows = _tile(x.repeat(size // TILE, 1), weight, size, False).view(-1, TILE, outputs)
        for sizes, small in zip(agreeing, wanted, strict=True):
            if (rows == small).all():
                sizes.append(size)
    for weight_first, sizes, small in zip(orders, agreeing, wanted, strict=True):
        if torch.equal(_tile(x[:SMALLER], weight, SMALLER, weight_first), small[:SMALLER]):
            sizes.append(SMALLER)
    return max((Tiles(*way) for way in zip(orders, map(tuple, agreeing), strict=True)), key=lambda way: way.sizes)


def _aligned(x: Tensor) -> Tensor:
    """The same at an address where a cache line begins: elsewhere a library may begin with another sum.

    The parameters of a trained model lie one after the other in one piece of memory, at any address.
    """
    return x if x.data_ptr() % _LINE == 0 and x.is_contiguous() else x.clone(memory_format=torch.contiguous_format)


def rows_are_independent(outputs: int, inputs: int, dtype: torch.dtype) -> bool:
    """Whether a product with a weight of that shape gives rows the same bits in another order, and one by itself."""
    x, weight = factors((3 * TILE // 2,), (outputs,), inputs, dtype)
    whole = product(x, weight)
    return torch.equal(product(x.flip(0), weight).flip(0), whole) and torch.equal(product(x[7:8], weight), whole[7:8])

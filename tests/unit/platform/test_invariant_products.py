"""Products whose rows have the same bits in every batch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from rlscale.platform import invariant_products as products
from rlscale.platform.cancelling_numbers import factors
from rlscale.platform.invariant_products import LARGER, SMALLER, TILE, Tiles, product, tiles_of
from tests.unit.platform.test_batch_invariant import TYPES, drawn

ALL = (*LARGER, SMALLER)


@pytest.fixture
def asked_anew() -> Iterator[None]:
    """A machine is asked once; here it changes."""
    tiles_of.cache_clear()
    yield
    tiles_of.cache_clear()


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize(("inputs", "outputs"), [(512, 512), (1536, 512), (512, 1024)])
def test_a_row_has_the_same_bits_if_its_sum_is_nothing_but_rounding(
    dtype: torch.dtype, inputs: int, outputs: int
) -> None:
    """Of ordinary numbers 16 bits show another order in one sum of ten thousand."""
    x, weight = factors((3200,), (outputs,), inputs, dtype)
    whole = torch.cat([product(some, weight) for some in x.split(64)])
    for rows in (1, 16, 100, 256, 450, 512, 700, 1100, 3200):
        assert torch.equal(product(x[:rows], weight), whole[:rows]), rows


@pytest.mark.parametrize("able", [(), (256, 16), (1024, 512, 256, 16)])
@pytest.mark.parametrize("rows", [1, 16, 17, 64, 65, 80, 81, 1023, 1024, 1300, 2500])
def test_tiles_follow_one_another_and_have_sizes_that_give_the_same_bits(rows: int, able: tuple[int, ...]) -> None:
    tiles = list(Tiles(True, able).cut(rows))
    assert [start for start, _, _ in tiles] == [0, *(end for _, end, _ in tiles[:-1])]
    assert tiles[-1][1] == rows
    assert {size for _, _, size in tiles} <= {64, *able}
    assert all(end - start == size for start, end, size in tiles[:-1])


@pytest.mark.parametrize(
    ("rows", "sizes"),
    [
        (10, [16]),
        (17, [64]),
        (64, [64]),
        (100, [256]),
        (300, [256, 64]),
        (400, [256, 256]),
        (1000, [256, 256, 256, 256]),
    ],
)
def test_a_larger_tile_is_used_from_a_third_of_its_rows_on(rows: int, sizes: list[int]) -> None:
    assert [size for _, _, size in Tiles(True, (1024 * 8, 256, 16)).cut(rows)] == sizes


@pytest.mark.parametrize("dtype", TYPES)
def test_a_tile_that_sums_otherwise_is_not_used(
    dtype: torch.dtype, asked_anew: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert tiles_of(64, 32, dtype).sizes == ALL

    def mm(x: Tensor, weight: Tensor, **options: Any) -> Tensor:
        return own(x, weight, **options) if len(x) != 256 else own(x.flip(1), weight.flip(0)) + 2**-4

    own = torch.mm
    tiles_of.cache_clear()
    monkeypatch.setattr(torch, "mm", mm)
    assert tiles_of(64, 32, dtype).sizes == tuple(size for size in ALL if size != 256)


@pytest.mark.parametrize("by_left_rows", [True, False])
def test_of_two_orders_of_small_tiles_that_of_the_larger_ones_is_taken(
    by_left_rows: bool, asked_anew: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A library that chooses the order by the rows on the left, and one that has another for few columns."""

    def mm(x: Tensor, other: Tensor, **options: Any) -> Tensor:
        return own(x, other, **options) + (len(x) > TILE if by_left_rows else other.shape[1] <= TILE)

    own = torch.mm
    monkeypatch.setattr(torch, "mm", mm)
    assert tiles_of(96, 32, torch.bfloat16) == Tiles(by_left_rows, ALL)


@pytest.mark.parametrize("dtype", TYPES)
def test_the_machine_is_asked_whether_rows_are_independent(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    assert products.rows_are_independent(256, 1024, dtype)
    monkeypatch.setattr(products, "product", lambda x, weight: x @ weight.t() + x[0, 0])
    assert not products.rows_are_independent(256, 1024, dtype)


def test_a_product_does_not_depend_on_where_its_weight_lies() -> None:
    """As parameters in the buffer of Megatron's DDP, whose addresses are any."""
    x, weight = drawn(96, 16), drawn(16, 16, seed=1)
    wanted = product(x, weight)
    for offset in range(1, 9):
        memory = torch.empty(offset + weight.numel())
        moved = memory[offset:].view_as(weight).copy_(weight)
        assert moved.data_ptr() % 64
        assert torch.equal(product(x, moved), wanted)

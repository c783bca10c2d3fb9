"""Torch's own attention in 16 bits: what a query gets does not depend on what is beside it, and is that of float64."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from rlscale.platform import batch_invariant as invariant
from rlscale.platform import fused_attention as fused
from rlscale.platform.cancelling_numbers import factors, terms

SHAPES = [(4, 2, 32, 32), (2, 2, 24, 16), (3, 1, 64, 64)]
"""Heads, heads of keys, size of these, size of values."""


@pytest.mark.parametrize("scale", [2.0**20, 2.0**-60])
@pytest.mark.parametrize(("heads", "key_heads", "size", "value_size"), SHAPES)
def test_a_query_has_the_same_bits_whole_beside_any_number_of_others_and_alone(
    heads: int, key_heads: int, size: int, value_size: int, scale: float
) -> None:
    """Of numbers that show any other order: scores that are nothing but rounding, or values that cancel."""
    if not invariant.torch_attends_alike(heads, key_heads, size, value_size, torch.bfloat16):
        pytest.skip("on this machine torch's own attention is not used")
    query, key = factors((1, heads, 600), (1, key_heads, 600), size, torch.bfloat16)
    value, last = terms((1, key_heads), 600, 64, value_size, torch.bfloat16), torch.arange(600)[None]
    wanted = fused.attend(query, key, value, last, scale)
    for end in (1, 2, 31, 33, 64, 65, 100, 300, 513, 600):
        whole = fused.attend_whole(query[:, :, :end], key[:, :, :end], value[:, :, :end], scale)
        assert torch.equal(whole, wanted[:, :, :end]), end
        for queries in (1, 2, 3, 33, 65, 97):
            some = slice(max(end - queries, 0), end)
            found = fused.attend(query[:, :, some], key[:, :, :end], value[:, :, :end], last[:, some], scale)
            assert torch.equal(found, wanted[:, :, some]), (end, queries)


@pytest.mark.parametrize(("heads", "key_heads", "size", "value_size"), SHAPES)
def test_it_is_that_of_float64(heads: int, key_heads: int, size: int, value_size: int) -> None:
    random = torch.Generator().manual_seed(0)
    shapes = (heads, size), (key_heads, size), (key_heads, value_size)
    query, key, value = (torch.randn(2, n, 70, width, generator=random).bfloat16() for n, width in shapes)
    wide = query.double(), key.double(), value.double()
    wanted = F.scaled_dot_product_attention(*wide, is_causal=True, scale=0.2, enable_gqa=True)
    last = torch.arange(70).expand(2, -1)
    rows = torch.cat([fused.attend(query[:, :, [i]], key, value, last[:, [i]], 0.2) for i in range(70)], 2)
    for found in (fused.attend_whole(query, key, value, 0.2), fused.attend(query, key, value, last, 0.2), rows):
        torch.testing.assert_close(found.double(), wanted, rtol=0, atol=0.02)


def test_it_is_not_used_in_float32_nor_for_values_that_are_wider_than_keys() -> None:
    assert not invariant.torch_attends_alike(2, 2, 16, 16, torch.float32)
    assert not invariant.torch_attends_alike(2, 2, 16, 24, torch.bfloat16)


def test_a_machine_on_which_it_depends_on_its_neighbours_attends_by_spans(monkeypatch: pytest.MonkeyPatch) -> None:
    """As with a kernel that lets the number of keys into each result."""
    own = fused.attend
    monkeypatch.setattr(fused, "attend", lambda query, key, *rest: own(query, key, *rest) + key.shape[2])
    invariant.torch_attends_alike.cache_clear()
    try:
        assert not invariant.torch_attends_alike(2, 2, 16, 16, torch.bfloat16)
        query = torch.ones(1, 2, 3, 16).bfloat16()
        assert torch.equal(invariant.causal_attention(query, query, query), query)
    finally:
        invariant.torch_attends_alike.cache_clear()

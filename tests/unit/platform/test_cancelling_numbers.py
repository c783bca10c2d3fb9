"""Numbers of which sums are nothing but rounding."""

from __future__ import annotations

import pytest
import torch

from rlscale.platform.cancelling_numbers import factors, terms


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("size", [1, 2, 63, 64])
def test_all_products_are_zero_but_for_rounding(size: int, dtype: torch.dtype) -> None:
    x, weight = factors((2, 9), (2, 5), size, dtype)
    assert (x.shape, weight.shape, x.dtype) == ((2, 9, size), (2, 5, size), dtype)
    torch.testing.assert_close(x.double() @ weight.double().mT, torch.zeros(2, 9, 5).double(), rtol=0, atol=1e-12)
    assert size == 1 or x.abs().sum() > 0
    assert all(torch.equal(*pair) for pair in zip((x, weight), factors((2, 9), (2, 5), size, dtype), strict=True))


def test_terms_that_belong_together_add_up_to_zero() -> None:
    values = terms((2, 3), 100, 64, 5, torch.bfloat16)
    assert values.shape == (2, 3, 100, 5)
    torch.testing.assert_close(values[:, :, :64].double().sum(2), torch.zeros(2, 3, 5).double(), rtol=0, atol=1e-12)
    assert (values[:, :, 64:].double().sum(2).abs() > 0).all()


def test_another_order_of_a_sum_shows_in_most_products_also_in_16_bits() -> None:
    x, weight = factors((64,), (64,), 512, torch.bfloat16)
    one, other = (
        torch.stack([x[:, some].float() @ weight[:, some].float().t() for some in order]).sum(0).bfloat16()
        for order in (torch.arange(512).split(512), torch.arange(512).split(64))
    )
    assert (one != other).float().mean() > 0.5

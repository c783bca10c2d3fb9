"""What holds for every policy loss, whatever its formula."""

from __future__ import annotations

import inspect

import numpy as np
import pytest
import torch

from rlscale.algo import losses
from rlscale.algo.losses import PolicyLoss
from tests.unit.algo.policy_losses import LOSSES
from tests.unit.algo.ragged import ragged
from tests.unit.algo.segment_sums import sum_over

TENSORS = ("loss", "ratio", "clipped_low", "clipped_high", "clamped")
FLAGS = ("clipped_low", "clipped_high", "clamped")

every_loss = pytest.mark.parametrize("name", LOSSES)


def test_the_list_of_losses_is_complete() -> None:
    public = {
        name
        for name, function in inspect.getmembers(losses, inspect.isfunction)
        if function.__module__ == losses.__name__
        and not name.startswith("_")
        and inspect.signature(function).return_annotation == "PolicyLoss"
    }
    assert public == set(LOSSES)


@every_loss
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_no_token_gives_empty_results_with_a_gradient_path(name: str, dtype: torch.dtype) -> None:
    lp = torch.zeros(0, dtype=dtype, requires_grad=True)
    none = torch.zeros(0, dtype=dtype)
    result = LOSSES[name](lp, none, none, none.bool(), sum_over([]))
    assert_well_formed(result, lp)
    result.loss.sum().backward()
    assert lp.grad is not None
    assert lp.grad.shape == (0,)


@every_loss
def test_nothing_trainable_gives_finite_values_and_no_gradient_through_the_advantages(name: str) -> None:
    # Where the mask is False all columns hold zeros; sft has no advantages, its weight is 0 there.
    lp = torch.zeros(5, dtype=torch.float64, requires_grad=True)
    zeros = torch.zeros(5, dtype=torch.float64)
    result = LOSSES[name](lp, zeros, zeros, zeros.bool(), sum_over([0, 0, 1, 1, 1]))
    assert_well_formed(result, lp)
    assert (result.loss == 0).all()
    assert (result.ratio == 1).all()
    assert not any(getattr(result, flag).any() for flag in FLAGS)
    (gradient,) = torch.autograd.grad((zeros * result.loss).sum(), lp)
    assert (gradient == 0).all()


@every_loss
@pytest.mark.parametrize("difference", [-100.0, 100.0])
@pytest.mark.parametrize("advantage", [-1.0, 0.0, 1.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_one_token_a_hundred_away_is_finite_and_counted(
    name: str, difference: float, advantage: float, dtype: torch.dtype
) -> None:
    lp = torch.tensor([difference], dtype=dtype, requires_grad=True)
    adv = torch.tensor([advantage], dtype=dtype)
    result = LOSSES[name](lp, torch.zeros(1, dtype=dtype), adv, torch.tensor([True]), sum_over([0]))
    assert_well_formed(result, lp)
    (gradient,) = torch.autograd.grad(result.loss.sum(), lp)
    assert torch.isfinite(gradient).all()
    assert result.clamped.all() == (name != "sft")
    if advantage == 0.0 and name != "sft":
        assert gradient.item() == 0.0


@every_loss
def test_a_difference_of_twenty_is_not_yet_clamped(name: str) -> None:
    lp = torch.tensor([20.0, -20.0], dtype=torch.float64)
    zeros = torch.zeros(2, dtype=torch.float64)
    result = LOSSES[name](lp, zeros, zeros, torch.tensor([True, True]), sum_over([0, 1]))
    assert not result.clamped.any()


@every_loss
def test_other_tokens_are_seen_through_the_segment_sum_alone(name: str) -> None:
    # So that a segment may lie on several ranks: any order of the tokens gives each its own numbers.
    data = ragged(3, noise=0.8)
    draw = np.random.default_rng(0)
    advantages = np.where(data.mask, draw.normal(size=data.mask.shape), 0.0)
    order = draw.permutation(len(advantages))
    columns = [torch.from_numpy(x) for x in (data.logprobs, data.old, advantages, data.mask)]
    whole = LOSSES[name](*columns, sum_over(data.row_of_token))
    shuffled = LOSSES[name](*(column[order] for column in columns), sum_over(data.row_of_token[order]))
    for field in TENSORS:
        np.testing.assert_allclose(getattr(shuffled, field), getattr(whole, field)[order], rtol=1e-12)


@every_loss
def test_equal_logprobs_give_ratio_one_and_the_policy_gradient(name: str) -> None:
    data = ragged(1)
    draw = np.random.default_rng(1)
    per_row = draw.normal(size=len(data.lengths))
    advantages = torch.from_numpy(np.where(data.mask, per_row[data.row_of_token], 0.0))
    lp = torch.from_numpy(data.logprobs).requires_grad_()
    result = LOSSES[name](lp, lp.detach(), advantages, torch.from_numpy(data.mask), sum_over(data.row_of_token))
    (gradient,) = torch.autograd.grad(result.loss.sum(), lp)
    assert (result.ratio == 1).all()
    assert not any(getattr(result, flag).any() for flag in FLAGS)
    expected = -torch.ones_like(advantages) if name == "sft" else -advantages
    np.testing.assert_allclose(gradient, expected, rtol=1e-12, atol=1e-15)


def assert_well_formed(result: PolicyLoss, logprobs: torch.Tensor) -> None:
    for field in TENSORS:
        value = getattr(result, field)
        assert value.shape == logprobs.shape
        assert value.dtype == (torch.bool if field in FLAGS else logprobs.dtype)
        assert torch.isfinite(value).all()
        assert value.requires_grad == (field == "loss")

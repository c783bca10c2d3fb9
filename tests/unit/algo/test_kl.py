from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from rlscale.algo.kl import ESTIMATORS, kl, unbiased

LOGPROBS = torch.tensor([-1.0, -0.5, -2.0], dtype=torch.float64)
REFERENCE = torch.tensor([-1.5, -0.5, -1.0], dtype=torch.float64)
"""d = 0.5, 0, -1."""


@pytest.mark.parametrize(
    ("estimator", "expected"),
    [
        ("k1", [0.5, 0.0, -1.0]),
        ("k2", [0.125, 0.0, 0.5]),
        ("k3", [math.exp(-0.5) - 0.5, 0.0, math.e - 2]),
        ("low_var_kl", [math.exp(-0.5) - 0.5, 0.0, math.e - 2]),
    ],
)
def test_estimates_by_hand(estimator: str, expected: list[float]) -> None:
    estimate, clamped = kl(estimator, LOGPROBS, REFERENCE)
    np.testing.assert_allclose(estimate, expected, rtol=1e-14, atol=1e-16)
    assert not clamped.any()


def test_low_var_kl_stops_at_ten_where_k3_goes_on() -> None:
    zero, far = torch.zeros(1), torch.tensor([4.0])
    assert kl("k3", zero, far)[0].item() == pytest.approx(math.exp(4) - 5)
    assert kl("low_var_kl", zero, far)[0].item() == 10.0


def test_unbiased_multiplies_by_the_ratio_and_its_gradient() -> None:
    lp = torch.tensor([-1.0], dtype=torch.float64, requires_grad=True)
    corrected, _ = unbiased(kl("k1", lp, torch.tensor([-1.5]))[0], lp, torch.tensor([-1.25]))
    corrected.sum().backward()
    assert corrected.item() == pytest.approx(0.5 * math.exp(0.25))
    # d/dlp of d * ratio is ratio * (1 + d).
    assert lp.grad is not None
    assert lp.grad.item() == pytest.approx(1.5 * math.exp(0.25))


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_gradients_agree_with_finite_differences(estimator: str) -> None:
    draw = torch.Generator().manual_seed(0)
    lp = (-2 * torch.rand(20, generator=draw, dtype=torch.float64)).requires_grad_()
    ref, old = lp.detach() + torch.randn(20, generator=draw), lp.detach() + 0.1
    assert torch.autograd.gradcheck(lambda x: kl(estimator, x, ref)[0], lp)
    assert torch.autograd.gradcheck(lambda x: unbiased(kl(estimator, x, ref)[0], x, old)[0], lp)


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("difference", [-100.0, 100.0])
def test_differences_of_a_hundred_stay_finite_and_are_counted(estimator: str, difference: float) -> None:
    lp = torch.tensor([difference], requires_grad=True)
    estimate, clamped = kl(estimator, lp, torch.zeros(1))
    corrected, also_clamped = unbiased(estimate, lp, torch.zeros(1))
    corrected.sum().backward()
    assert lp.grad is not None
    assert torch.isfinite(corrected).all()
    assert torch.isfinite(lp.grad).all()
    assert also_clamped.item()
    assert clamped.item() == (estimator in ("k3", "low_var_kl"))


def test_a_token_far_below_the_reference_is_not_pushed_further_down() -> None:
    lp = torch.tensor([-100.0], requires_grad=True)
    kl("k3", lp, torch.zeros(1))[0].sum().backward()
    assert lp.grad is not None
    assert lp.grad.item() == 0.0


def test_an_unknown_estimator_is_refused() -> None:
    with pytest.raises(ValueError, match="low_var_kl"):
        kl("k4", LOGPROBS, REFERENCE)

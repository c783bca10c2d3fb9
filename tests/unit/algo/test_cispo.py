from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from rlscale.algo.losses import cispo
from tests.unit.algo.ragged import ragged


def tensor(values: list[float]) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_by_hand_a_clipped_token_keeps_a_gradient_of_bounded_weight() -> None:
    ratio = tensor([0.5, 1.0, 2.0, 8.0])
    lp = tensor([-1.0, -2.0, -0.5, -0.25])
    old = lp - ratio.log()
    lp.requires_grad_()
    result = cispo(lp, old, tensor([1.0, -2.0, 3.0, -1.0]), eps_low=0.2, eps_high=3.0)
    result.loss.sum().backward()
    # Weights 0.8, 1, 2, 4.
    np.testing.assert_allclose(result.loss.detach(), [0.8, -4.0, 3.0, -1.0], rtol=1e-14)
    np.testing.assert_allclose(lp.grad, [-0.8, 2.0, -6.0, 4.0], rtol=1e-14)
    np.testing.assert_allclose(result.ratio, ratio, rtol=1e-14)
    assert result.clipped_low.tolist() == [True, False, False, False]
    assert result.clipped_high.tolist() == [False, False, False, True]


def test_a_weight_is_clipped_whatever_the_sign_of_the_advantage() -> None:
    lp = tensor([0.1, 0.1, 9.0, 9.0]).log()
    result = cispo(lp, torch.zeros(4), tensor([1.0, -1.0, 1.0, -1.0]), eps_low=0.5, eps_high=1.0)
    np.testing.assert_allclose(result.loss, tensor([-0.5, 0.5, -2.0, 2.0]) * lp, rtol=1e-14)
    assert result.clipped_low.tolist() == [True, True, False, False]
    assert result.clipped_high.tolist() == [False, False, True, True]


def test_eps_low_of_one_is_no_lower_bound() -> None:
    lp = tensor([-19.0]).requires_grad_()
    result = cispo(lp, torch.zeros(1), tensor([1.0]), eps_low=1.0, eps_high=4.0)
    result.loss.sum().backward()
    assert not result.clipped_low.any()
    np.testing.assert_allclose(lp.grad, [-math.exp(-19.0)], rtol=1e-14)


def test_the_gradient_at_ratio_one_is_the_policy_gradient() -> None:
    data = ragged(0)
    lp = torch.from_numpy(data.logprobs).requires_grad_()
    advantages = torch.from_numpy(data.ref)
    cispo(lp, lp.detach(), advantages, eps_low=1.0, eps_high=4.0).loss.sum().backward()
    assert lp.grad is not None
    assert torch.equal(lp.grad, -advantages)


@pytest.mark.parametrize("seed", range(4))
def test_value_and_gradient_agree_with_a_loop_and_its_finite_differences(seed: int) -> None:
    data = ragged(seed, noise=0.8)
    advantages = np.where(data.mask, np.random.default_rng(seed).normal(size=data.mask.shape), 0.0)

    def surrogate(x: np.ndarray) -> np.ndarray:
        # The weight is taken at the log-probs themselves: it is under a stop-gradient.
        loss = np.empty_like(x)
        for t in range(len(x)):
            weight = min(max(math.exp(data.logprobs[t] - data.old[t]), 0.7), 1.4)
            loss[t] = -weight * advantages[t] * x[t]
        return loss

    lp, old, adv = (torch.from_numpy(x) for x in (data.logprobs, data.old, advantages))
    lp.requires_grad_()
    result = cispo(lp, old, adv, eps_low=0.3, eps_high=0.4)
    result.loss.sum().backward()
    assert result.clipped_low.any()
    assert result.clipped_high.any()
    np.testing.assert_allclose(result.loss.detach(), surrogate(data.logprobs), rtol=1e-13)
    slope = (surrogate(data.logprobs + 1e-6) - surrogate(data.logprobs - 1e-6)) / 2e-6
    np.testing.assert_allclose(lp.grad, slope, rtol=1e-7, atol=1e-9)

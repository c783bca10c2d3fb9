from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from rlscale.algo.losses import sapo
from tests.unit.algo.ragged import ragged


def tensor(values: list[float]) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_by_hand_each_sign_of_the_advantage_has_its_temperature() -> None:
    # sigmoid(+-log 3) = 3/4, 1/4. With tau 2 for A > 0 and 4 elsewhere, f = 3/4 * 2, 1/4 * 1, 1/2 * 2, 1/2 * 1.
    ratio = tensor([1 + math.log(3) / 2, 1 - math.log(3) / 4, 1.0, 1.0])
    lp = ratio.log().requires_grad_()
    result = sapo(lp, torch.zeros(4), tensor([2.0, -2.0, 1.0, -1.0]), tau_positive=2.0, tau_negative=4.0)
    result.loss.sum().backward()
    np.testing.assert_allclose(result.loss.detach(), [-3.0, 0.5, -1.0, 0.5], rtol=1e-14)
    # f'(x) = 4 s (1 - s), and d ratio / d lp = ratio.
    np.testing.assert_allclose(lp.grad, [-1.5 * ratio[0], 1.5 * ratio[1], -1.0, 1.0], rtol=1e-14)
    np.testing.assert_allclose(result.ratio, ratio, rtol=1e-14)
    assert not result.clipped_low.any()
    assert not result.clipped_high.any()


@pytest.mark.parametrize("tau", [0.5, 1.0, 1.05, 3.0])
def test_the_gradient_at_ratio_one_is_the_policy_gradient(tau: float) -> None:
    data = ragged(0)
    lp = torch.from_numpy(data.logprobs).requires_grad_()
    advantages = torch.from_numpy(np.random.default_rng(0).normal(size=data.mask.shape))
    sapo(lp, lp.detach(), advantages, tau_positive=tau, tau_negative=2 * tau).loss.sum().backward()
    np.testing.assert_allclose(lp.grad, -advantages, rtol=1e-14)


def test_the_gate_weakens_the_gradient_on_both_sides_of_one() -> None:
    lp = tensor([0.05, 0.5, 1.0, 2.0, 20.0]).log().requires_grad_()
    sapo(lp, torch.zeros(5), torch.ones(5), tau_positive=1.0, tau_negative=1.05).loss.sum().backward()
    assert lp.grad is not None
    gate = -lp.grad / lp.detach().exp()
    assert gate.argmax().item() == 2
    assert gate[0] < gate[1] < gate[2] == 1.0
    assert gate[4] < gate[3] < gate[2]
    assert gate[4] < 1e-6


@pytest.mark.parametrize("seed", range(4))
def test_the_loss_agrees_with_a_loop_and_its_gradient_with_finite_differences(seed: int) -> None:
    data = ragged(seed, groups=2, noise=0.8)
    advantages = np.where(data.mask, np.random.default_rng(seed).normal(size=data.mask.shape), 0.0)
    expected = np.empty_like(data.old)
    for t, advantage in enumerate(advantages):
        tau = 0.9 if advantage > 0 else 1.3
        ratio = math.exp(data.logprobs[t] - data.old[t])
        expected[t] = -4 / tau / (1 + math.exp(-tau * (ratio - 1))) * advantage
    lp, old, adv = (torch.from_numpy(x) for x in (data.logprobs, data.old, advantages))
    result = sapo(lp, old, adv, tau_positive=0.9, tau_negative=1.3)
    np.testing.assert_allclose(result.loss, expected, rtol=1e-13)
    lp.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: sapo(x, old, adv, tau_positive=0.9, tau_negative=1.3).loss, lp)

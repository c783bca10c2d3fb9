from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from rlscale.algo.losses import gspo, gspo_token
from tests.unit.algo.ragged import ragged
from tests.unit.algo.segment_sums import sum_over, sum_over_rows


def tensor(values: list[float]) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_value_is_the_segments_ratio_and_gradient_the_tokens_own() -> None:
    # Segment one: mean log-ratio (0.2 + 0.4) / 2 = 0.3 over its trainable tokens; segment two: -0.1.
    lp = tensor([0.2, 9.0, 0.4, -0.1]).requires_grad_()
    mask = torch.tensor([True, False, True, True])
    advantages = tensor([1.0, 0.0, -3.0, -1.0])
    result = gspo_token(lp, torch.zeros(4), advantages, mask, sum_over([0, 0, 0, 1]), eps_low=0.2, eps_high=0.5)
    result.loss.sum().backward()
    a, b = math.exp(0.3), math.exp(-0.1)
    np.testing.assert_allclose(result.ratio, [a, a, a, b], rtol=1e-14)
    np.testing.assert_allclose(result.loss.detach(), [-a, 0.0, 3 * a, b], rtol=1e-14)
    np.testing.assert_allclose(lp.grad, [-a, 0.0, 3 * a, b], rtol=1e-14)
    assert not result.ratio.requires_grad


def test_a_segments_ratio_decides_the_clip_of_each_token_by_the_sign_of_its_advantage() -> None:
    # ratio_s = 2 for both tokens of segment one and 1/2 for both of segment two; bounds 0.8 .. 1.3.
    lp = tensor([2.0, 2.0, 0.5, 0.5]).log().requires_grad_()
    advantages = tensor([1.0, -1.0, 1.0, -1.0])
    every = torch.ones(4, dtype=torch.bool)
    result = gspo_token(lp, torch.zeros(4), advantages, every, sum_over([0, 0, 1, 1]), eps_low=0.2, eps_high=0.3)
    result.loss.sum().backward()
    np.testing.assert_allclose(result.loss.detach(), [-1.3, 2.0, -0.5, 0.8], rtol=1e-14)
    np.testing.assert_allclose(lp.grad, [0.0, 2.0, -0.5, 0.0], rtol=1e-14)
    assert result.clipped_high.tolist() == [True, False, False, False]
    assert result.clipped_low.tolist() == [False, False, False, True]


@pytest.mark.parametrize("seed", range(4))
def test_equal_advantages_in_a_segment_give_the_value_and_gradient_of_gspo(seed: int) -> None:
    data = ragged(seed, noise=0.8)
    draw = np.random.default_rng(seed)
    per_row, weight_per_row = draw.normal(size=len(data.lengths)), draw.random(len(data.lengths))
    advantages = torch.from_numpy(np.where(data.mask, per_row[data.row_of_token], 0.0))
    weights = torch.from_numpy(np.where(data.mask, weight_per_row[data.row_of_token], 0.0))
    lp, old, mask = (torch.from_numpy(x) for x in (data.logprobs, data.old, data.mask))
    lp.requires_grad_()
    results = [f(lp, old, advantages, mask, sum_over_rows(data), eps_low=0.1, eps_high=0.2) for f in (gspo, gspo_token)]
    clipped = results[0].clipped_low | results[0].clipped_high
    assert clipped.any()
    assert not clipped[mask].all()
    np.testing.assert_array_equal(results[1].loss.detach(), results[0].loss.detach())
    gradients = [torch.autograd.grad((weights * result.loss).sum(), lp)[0] for result in results]
    np.testing.assert_allclose(gradients[1], gradients[0], rtol=1e-12, atol=1e-15)


def surrogate(
    x: np.ndarray, at: np.ndarray, old: np.ndarray, advantages: np.ndarray, mask: np.ndarray, offsets: np.ndarray
) -> np.ndarray:
    """The loss [T] at log-probs x, with everything under a stop-gradient taken at the log-probs `at`."""
    loss = np.zeros_like(x)
    for row in range(len(offsets) - 1):
        tokens = [t for t in range(offsets[row], offsets[row + 1]) if mask[t]]
        if not tokens:
            continue
        of_segment = math.exp(sum(at[t] - old[t] for t in tokens) / len(tokens))
        for t in tokens:
            ratio = of_segment * math.exp(x[t] - at[t])
            loss[t] = max(-ratio * advantages[t], -min(max(ratio, 0.9), 1.2) * advantages[t])
    return loss


@pytest.mark.parametrize("seed", range(4))
def test_value_and_gradient_agree_with_a_loop_and_its_finite_differences(seed: int) -> None:
    data = ragged(seed, noise=0.8)
    advantages = np.where(data.mask, np.random.default_rng(seed).normal(size=data.mask.shape), 0.0)
    rest = (data.logprobs, data.old, advantages, data.mask, data.offsets)
    lp, old, adv, mask = (torch.from_numpy(x) for x in (data.logprobs, data.old, advantages, data.mask))
    lp.requires_grad_()
    result = gspo_token(lp, old, adv, mask, sum_over_rows(data), eps_low=0.1, eps_high=0.2)
    result.loss.sum().backward()
    np.testing.assert_allclose(result.loss.detach(), surrogate(data.logprobs, *rest), rtol=1e-12, atol=1e-15)
    # A token's loss depends on its own log-prob alone, so that one difference gives all derivatives.
    step = 1e-6
    slope = (surrogate(data.logprobs + step, *rest) - surrogate(data.logprobs - step, *rest)) / (2 * step)
    np.testing.assert_allclose(lp.grad, slope, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("difference", [-100.0, 100.0])
@pytest.mark.parametrize("advantage", [-1.0, 1.0])
def test_a_segment_past_the_exponents_bound_passes_no_gradient(difference: float, advantage: float) -> None:
    lp = tensor([difference, difference]).requires_grad_()
    every = torch.tensor([True, True])
    result = gspo_token(lp, torch.zeros(2), tensor([advantage] * 2), every, sum_over([0, 0]), eps_low=0.2, eps_high=0.2)
    result.loss.sum().backward()
    assert result.clamped.all()
    assert lp.grad is not None
    assert lp.grad.tolist() == [0.0, 0.0]

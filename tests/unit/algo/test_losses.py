from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from rlscale.algo.losses import clip, gspo, sft
from tests.unit.algo.ragged import ragged
from tests.unit.algo.segment_sums import sum_over, sum_over_rows


def tensor(values: list[float]) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_clip_by_hand() -> None:
    ratio = tensor([1.5, 1.5, 0.5, 0.5, 1.1, 1.0])
    advantages = tensor([2.0, -2.0, 2.0, -2.0, 1.0, 0.0])
    result = clip(ratio.log(), torch.zeros(6), advantages, eps_low=0.2, eps_high=0.3)
    np.testing.assert_allclose(result.loss, [-2.6, 3.0, -1.0, 1.6, -1.1, 0.0], rtol=1e-14)
    np.testing.assert_allclose(result.ratio, ratio, rtol=1e-14)
    assert result.clipped_low.tolist() == [False, False, False, True, False, False]
    assert result.clipped_high.tolist() == [True, False, False, False, False, False]


def test_dual_clip_bounds_the_loss_only_where_the_advantage_is_negative() -> None:
    ratio, advantages = tensor([5.0, 2.0, 5.0]), tensor([-1.0, -1.0, 1.0])
    result = clip(ratio.log(), torch.zeros(3), advantages, eps_low=0.2, eps_high=0.2, dual_clip=3.0)
    np.testing.assert_allclose(result.loss, [3.0, 2.0, -1.2], rtol=1e-14)
    assert result.clipped_high.tolist() == [True, False, True]


def test_clipped_tokens_have_no_gradient_and_the_others_the_policy_gradient() -> None:
    lp = tensor([1.5, 1.5, 0.5, 0.5, 1.0]).log().requires_grad_()
    advantages = tensor([2.0, -2.0, 2.0, -2.0, 3.0])
    clip(lp, torch.zeros(5), advantages, eps_low=0.2, eps_high=0.2).loss.sum().backward()
    np.testing.assert_allclose(lp.grad, [0.0, 3.0, -1.0, 0.0, -3.0], rtol=1e-14)


def test_gspo_by_hand_uses_the_geometric_mean_of_each_segment() -> None:
    # Segment one: mean log-ratio of the trainable tokens (0.2 + 0.4) / 2 = 0.3; segment two: -0.1.
    lp, old = tensor([0.2, 9.0, 0.4, -0.1]), torch.zeros(4, dtype=torch.float64)
    mask = torch.tensor([True, False, True, True])
    advantages = tensor([1.0, 0.0, 1.0, -1.0])
    result = gspo(lp, old, advantages, mask, sum_over([0, 0, 0, 1]), eps_low=0.2, eps_high=0.5)
    a, b = math.exp(0.3), math.exp(-0.1)
    np.testing.assert_allclose(result.ratio, [a, a, a, b], rtol=1e-14)
    np.testing.assert_allclose(result.loss, [-a, 0.0, -a, b], rtol=1e-14)


def test_every_token_of_a_gspo_segment_gets_the_mean_of_its_tokens_gradients() -> None:
    # ratio_s = exp((0.1 + 0.3) / 2); d ratio_s / d lp_t = ratio_s / 2, so each token gets -ratio_s (1 + 2) / 2.
    lp = tensor([0.1, 0.3]).requires_grad_()
    both = torch.tensor([True, True])
    gspo(
        lp, torch.zeros(2), tensor([1.0, 2.0]), both, sum_over([0, 0]), eps_low=0.5, eps_high=0.5
    ).loss.sum().backward()
    np.testing.assert_allclose(lp.grad, [-1.5 * math.exp(0.2)] * 2, rtol=1e-14)


@pytest.mark.parametrize("seed", range(4))
def test_gspo_with_one_token_per_segment_is_the_clipped_loss_and_its_gradient(seed: int) -> None:
    data = ragged(seed)
    lp, old = torch.from_numpy(data.logprobs).requires_grad_(), torch.from_numpy(data.old)
    advantages = torch.from_numpy(np.where(data.mask, data.ref, 0.0))
    each = sum_over(np.arange(len(data.mask)))
    mask = torch.from_numpy(data.mask)
    of_sequences = gspo(lp, old, advantages, mask, each, eps_low=0.1, eps_high=0.2)
    of_tokens = clip(lp, old, advantages, eps_low=0.1, eps_high=0.2)
    assert of_tokens.clipped_low.any()
    np.testing.assert_allclose(of_sequences.loss[mask].detach(), of_tokens.loss[mask].detach(), rtol=1e-14)
    gradients = [torch.autograd.grad(result.loss.sum(), lp)[0][mask] for result in (of_sequences, of_tokens)]
    np.testing.assert_allclose(*gradients, rtol=1e-14)
    for flag in ("clipped_low", "clipped_high"):
        assert torch.equal(getattr(of_sequences, flag)[mask], getattr(of_tokens, flag)[mask])


def test_sft_is_minus_the_logprob() -> None:
    lp = tensor([-0.5, -3.0]).requires_grad_()
    loss = sft(lp).loss
    loss.sum().backward()
    assert loss.tolist() == [0.5, 3.0]
    assert lp.grad is not None
    assert lp.grad.tolist() == [-1.0, -1.0]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("dual", [None, 1.5])
def test_clip_agrees_with_numpy_on_ragged_input(seed: int, dual: float | None) -> None:
    data = ragged(seed, noise=0.8)
    advantages = np.where(data.mask, np.random.default_rng(seed).normal(size=data.mask.shape), 0.0)
    expected = np.empty_like(data.old)
    for t in range(len(expected)):
        ratio, a = math.exp(data.logprobs[t] - data.old[t]), advantages[t]
        expected[t] = max(-ratio * a, -min(max(ratio, 0.7), 1.4) * a)
        if dual is not None and a < 0:
            expected[t] = min(-dual * a, expected[t])
    columns = map(torch.from_numpy, (data.logprobs, data.old, advantages))
    result = clip(*columns, eps_low=0.3, eps_high=0.4, dual_clip=dual)
    np.testing.assert_allclose(result.loss, expected, rtol=1e-13)


@pytest.mark.parametrize("seed", range(4))
def test_gspo_agrees_with_numpy_on_ragged_input(seed: int) -> None:
    data = ragged(seed, noise=0.8)
    advantages = np.where(data.mask, np.random.default_rng(seed).normal(size=data.mask.shape), 0.0)
    expected = np.zeros_like(data.old)
    for row in range(len(data.lengths)):
        tokens = [t for t in range(data.offsets[row], data.offsets[row + 1]) if data.mask[t]]
        if not tokens:
            continue
        ratio = math.exp(sum(data.logprobs[t] - data.old[t] for t in tokens) / len(tokens))
        for t in tokens:
            a = advantages[t]
            expected[t] = max(-ratio * a, -min(max(ratio, 0.9), 1.2) * a)
    lp, old, adv, mask = map(torch.from_numpy, (data.logprobs, data.old, advantages, data.mask))
    result = gspo(lp, old, adv, mask, sum_over_rows(data), eps_low=0.1, eps_high=0.2)
    np.testing.assert_allclose(result.loss[data.mask], expected[data.mask], rtol=1e-12)


def test_gradients_agree_with_finite_differences() -> None:
    data = ragged(2, groups=2, noise=0.5)
    lp, old, mask = map(torch.from_numpy, (data.logprobs, data.old, data.mask))
    adv = torch.from_numpy(np.where(data.mask, np.random.default_rng(0).normal(size=data.mask.shape), 0.0))
    lp.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: clip(x, old, adv, eps_low=0.2, eps_high=0.2, dual_clip=1.7).loss, lp)
    segment_sum = sum_over_rows(data)
    assert torch.autograd.gradcheck(lambda x: gspo(x, old, adv, mask, segment_sum, eps_low=0.1, eps_high=0.1).loss, lp)

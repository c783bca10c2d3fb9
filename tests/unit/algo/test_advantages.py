"""Broadcast, baseline, distillation and whitening; those that look along a trajectory are in test_gae.py."""

from __future__ import annotations

import math
import statistics

import numpy as np
import pytest
import torch
from torch.autograd.functional import jacobian

from rlscale.algo.advantages import baseline, broadcast, distil, whiten
from tests.unit.algo.ragged import ragged

SCORES = np.array([0.5, -2.0])
ROWS = {"sample": np.array([1, 0, 1]), "lengths": np.array([2, 1, 3])}
MASK = np.array([False, True, True, True, False, True])


def test_every_trainable_token_of_every_segment_gets_its_samples_score() -> None:
    np.testing.assert_array_equal(broadcast(SCORES, **ROWS, mask=MASK), [0.0, -2.0, 0.5, -2.0, 0.0, -2.0])


@pytest.mark.parametrize("seed", range(4))
def test_broadcast_and_baseline_agree_with_a_loop_on_ragged_input(seed: int) -> None:
    step = ragged(seed)
    scores = np.random.default_rng(1).normal(size=step.rewards.shape)
    kl = step.old - step.ref
    alone, penalised = np.zeros(len(kl)), np.zeros(len(kl))
    for row in range(len(step.lengths)):
        for token in range(step.offsets[row], step.offsets[row + 1]):
            if step.mask[token]:
                alone[token] = scores[step.sample[row]]
                penalised[token] = scores[step.sample[row]] - 0.1 * (step.old[token] - step.ref[token])
    np.testing.assert_array_equal(broadcast(scores, step.sample, step.lengths, step.mask), alone)
    result = baseline(broadcast(scores, step.sample, step.lengths, step.mask), kl, 0.1, step.mask)
    np.testing.assert_allclose(result, penalised, rtol=1e-14)


def test_lengths_that_do_not_match_the_mask_are_refused() -> None:
    with pytest.raises(ValueError, match="add up to 2 tokens"):
        broadcast(np.array([1.0]), np.array([0]), np.array([2]), np.array([True]))


def test_baseline_takes_each_tokens_own_kl_from_its_samples_score() -> None:
    kl = np.array([9.0, 1.0, -2.0, 0.0, 9.0, 4.0])
    np.testing.assert_allclose(
        baseline(broadcast(SCORES, **ROWS, mask=MASK), kl, 0.5, MASK), [0.0, -2.5, 1.5, -2.0, 0.0, -4.0], rtol=1e-15
    )


def test_baseline_without_kl_is_broadcast() -> None:
    scores = broadcast(SCORES, **ROWS, mask=MASK)
    np.testing.assert_array_equal(baseline(scores, None, 0.5, MASK), scores)


def test_distillation_by_hand_raises_what_the_teacher_likes_better() -> None:
    advantages, mask = np.array([1.0, 1.0, 0.0, 0.0]), np.array([True, True, True, False])
    old, teacher = np.array([-1.0, -2.0, -0.5, -7.0]), np.array([-0.5, -4.0, -0.5, -1.0])
    np.testing.assert_allclose(distil(advantages, old, teacher, mask, 2.0), [2.0, -3.0, 0.0, 0.0], rtol=1e-15)


def test_distillation_alone_is_the_difference_from_the_teacher_on_ragged_input() -> None:
    step = ragged(4)
    result = distil(np.zeros(len(step.mask)), step.old, step.ref, step.mask, 1.0)
    expected = [float(t) - float(s) if m else 0.0 for s, t, m in zip(step.old, step.ref, step.mask, strict=True)]
    np.testing.assert_array_equal(result, expected)


def test_the_policy_gradient_of_distillation_is_minus_the_gradient_of_the_reverse_kl() -> None:
    draw = torch.Generator().manual_seed(0)
    logits, teacher = torch.randn(2, 6, generator=draw, dtype=torch.float64)
    teacher = teacher.log_softmax(0)

    def reverse_kl(x: torch.Tensor) -> torch.Tensor:
        return (x.log_softmax(0).exp() * (x.log_softmax(0) - teacher)).sum()

    old = logits.log_softmax(0)
    advantages = torch.from_numpy(distil(np.zeros(6), old.numpy(), teacher.numpy(), np.ones(6, dtype=bool), 1.0))
    # The expectation over samples of the old policy, outcome by outcome.
    ascent = jacobian(lambda x: (old.exp() * advantages * x.log_softmax(0)).sum(), logits)
    np.testing.assert_allclose(ascent, -jacobian(reverse_kl, logits), rtol=1e-12, atol=1e-15)


def test_whitening_by_hand_uses_the_bessel_corrected_variance() -> None:
    # Mean 3, variance (4 + 0 + 4) / 2 = 4.
    whitened = whiten(np.array([1.0, 77.0, 3.0, 5.0]), np.array([True, False, True, True]))
    one = 2.0 / math.sqrt(4.0 + 1e-8)
    np.testing.assert_allclose(whitened, [-one, 0.0, 0.0, one], rtol=1e-15)


@pytest.mark.parametrize("seed", range(4))
def test_whitening_agrees_with_exact_statistics_on_ragged_input(seed: int) -> None:
    step = ragged(seed)
    advantages = np.where(step.mask, 5.0 + 3.0 * step.old, 0.0)
    trainable = [float(a) for a, m in zip(advantages, step.mask, strict=True) if m]
    mean, variance = statistics.mean(trainable), statistics.variance(trainable)
    expected = [
        (float(a) - mean) / math.sqrt(variance + 1e-8) if m else 0.0 for a, m in zip(advantages, step.mask, strict=True)
    ]
    np.testing.assert_allclose(whiten(advantages, step.mask), expected, rtol=1e-12, atol=1e-14)


def test_whitened_advantages_of_any_scale_have_mean_zero_and_variance_one() -> None:
    step = ragged(1)
    for scale in (1e-2, 1.0, 1e6):
        whitened = whiten(scale * (step.old + 3.0), step.mask)[step.mask]
        assert whitened.mean() == pytest.approx(0.0, abs=1e-12)
        assert whitened.var(ddof=1) == pytest.approx(1.0, rel=1e-3)


@pytest.mark.parametrize("value", [0.0, 0.1, -3.0, 1e8])
@pytest.mark.parametrize("tokens", [0, 1, 10])
def test_whitening_without_variance_gives_zeros(value: float, tokens: int) -> None:
    mask = np.arange(12) < tokens
    np.testing.assert_allclose(whiten(np.where(mask, value, 0.0), mask), np.zeros(12), rtol=0, atol=1e-6)


def test_what_stands_at_masked_tokens_is_never_read() -> None:
    step = ragged(6)

    def with_masked(filler: float) -> list[np.ndarray]:
        old, ref = (np.where(step.mask, column, filler) for column in (step.old, step.ref))
        scores = np.where(step.mask, np.repeat(step.rewards[step.sample], step.lengths), filler)
        return [
            baseline(scores, np.where(step.mask, step.old - step.ref, filler), 0.1, step.mask),
            distil(old, old, ref, step.mask, 1.0),
            whiten(old, step.mask),
        ]

    for clean, polluted in zip(with_masked(0.0), with_masked(math.nan), strict=True):
        np.testing.assert_array_equal(polluted, clean)
        assert (polluted[~step.mask] == 0.0).all()
        assert (polluted[step.mask] != 0.0).any()


@pytest.mark.parametrize("difference", [-100.0, 100.0])
def test_differences_of_a_hundred_keep_their_size_and_stay_finite(difference: float) -> None:
    mask = np.array([True, True, False])
    old, teacher = np.array([difference, 0.0, difference]), np.zeros(3)
    distilled = distil(np.zeros(3), old, teacher, mask, 1.0)
    np.testing.assert_array_equal(distilled, [-difference, 0.0, 0.0])
    assert np.isfinite(whiten(distilled, mask)).all()
    penalised = baseline(np.zeros(3), old, 1.0, mask)
    np.testing.assert_array_equal(penalised, [-difference, 0.0, 0.0])

"""Score centering against the whole distribution in float64: what is left of the drift, and what C is by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from rlscale.algo.score_centering import Bounds, score_centering

VOCABULARY = 7
TIS, ICEPOP = Bounds(0.0, 1.2, zeroed=False), Bounds(0.8, 1.2, zeroed=True)


def weight(ratio: Tensor, bounds: Bounds | None) -> Tensor:
    """The importance weight that the policy loss has, written out once more."""
    if bounds is None:
        return torch.ones_like(ratio)
    inside = (ratio >= bounds.low) & (ratio <= bounds.high)
    return torch.where(inside, ratio, 0.0) if bounds.zeroed else ratio.clamp(bounds.low, bounds.high)


def distributions(seed: int = 0) -> tuple[Tensor, Tensor]:
    """Logits of p, which has a gradient, and q: about a fifth away from it."""
    torch.manual_seed(seed)
    logits = (1.5 * torch.randn(VOCABULARY, dtype=torch.float64)).requires_grad_()
    return logits, (logits.detach() + 0.3 * torch.randn(VOCABULARY, dtype=torch.float64)).softmax(-1)


def expected_gradient(logits: Tensor, q: Tensor, words: Tensor, bounds: Bounds | None) -> Tensor:
    """Of the centred loss with A = 1, over tokens drawn from q: sum_y q_y (-w_y grad log p_y + grad C)."""
    logp = logits.log_softmax(-1)
    base = -(q * weight(logp.detach().exp() / q, bounds) * logp).sum()
    named = torch.ones(1, len(words), dtype=torch.bool)
    centred = score_centering(logp[words][None], q[words].log()[None], named, bounds)
    return torch.autograd.grad(base + centred.score.sum(), logits)[0]


@pytest.mark.parametrize("bounds", [None, TIS, ICEPOP])
def test_no_drift_is_left_where_all_words_are_named(bounds: Bounds | None) -> None:
    logits, q = distributions()
    ratio = logits.detach().softmax(-1) / q
    assert ((ratio > 1.2) | (ratio < 0.8)).any()  # else the bounds would not act
    logp = logits.log_softmax(-1)
    drift = torch.autograd.grad((q * weight(ratio, bounds) * logp).sum(), logits)[0]
    assert drift.abs().max() > 1e-2
    assert expected_gradient(logits, q, torch.arange(VOCABULARY), bounds).abs().max() < 1e-12


@pytest.mark.parametrize("bounds", [None, TIS, ICEPOP])
def test_no_drift_is_left_where_the_words_that_are_not_named_have_the_proportions_of_p(bounds: Bounds | None) -> None:
    logits, q = distributions(1)
    p, words = logits.detach().softmax(-1), torch.tensor([2, 0, 5])
    tail = torch.ones(VOCABULARY, dtype=torch.bool)
    tail[words] = False
    q = torch.where(tail, p * ((1 - q[words].sum()) / p[tail].sum()), q)
    assert abs(q.sum() - 1) < 1e-12
    assert expected_gradient(logits, q, words, bounds).abs().max() < 1e-12


def test_with_few_words_named_less_drift_is_left_than_with_none() -> None:
    logits, q = distributions(2)
    drift = torch.autograd.grad((q * logits.log_softmax(-1)).sum(), logits)[0].norm()
    left = [float(expected_gradient(logits, q, q.topk(k).indices, None).norm()) for k in (1, 3, 5)]
    assert left == sorted(left, reverse=True)
    assert left[-1] < 0.3 * drift


def test_the_score_by_hand() -> None:
    """H = two words of p = (.5, .3), q = (.6, .2): rho = .2 / .2, factors .6 - .5 and .2 - .3."""
    logprobs = torch.tensor([[0.5, 0.3]], dtype=torch.float64).log()
    sampler = torch.tensor([[0.6, 0.2]], dtype=torch.float64).log()
    got = score_centering(logprobs, sampler, torch.ones(1, 2, dtype=torch.bool), None)
    assert got.score.item() == pytest.approx(0.1 * math.log(0.5) - 0.1 * math.log(0.3), rel=1e-12)
    assert got.gap.item() == pytest.approx(0.1, rel=1e-12)
    assert got.tail.item() == pytest.approx(0.2, rel=1e-12)


def test_weights_without_bounds_leave_nothing_to_take_off() -> None:
    logits, q = distributions()
    named = torch.ones(1, 3, dtype=torch.bool)
    words = torch.tensor([0, 1, 2])
    logp = logits.log_softmax(-1)[words][None]
    assert score_centering(logp, q[words].log()[None], named, Bounds(0.0, 1e9, zeroed=False)).score.abs() < 1e-12


def test_what_is_not_named_is_not_read() -> None:
    """Also where the numbers are none."""
    logprobs = torch.tensor([[-0.5, math.nan], [math.nan, math.nan]], requires_grad=True)
    sampler = torch.tensor([[-0.7, math.inf], [math.nan, math.nan]])
    named = torch.tensor([[True, False], [False, False]])
    got = score_centering(logprobs, sampler, named, TIS)
    alone = score_centering(logprobs[:1, :1], sampler[:1, :1], named[:1, :1], TIS)
    assert got.score[0] == alone.score[0]
    assert got.score[1] == got.gap[1] == got.tail[1] == 0
    (gradient,) = torch.autograd.grad(got.score.sum(), logprobs)
    assert gradient.isfinite().all()
    assert (gradient[~named] == 0).all()

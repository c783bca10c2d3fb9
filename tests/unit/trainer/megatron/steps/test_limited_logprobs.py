"""Log-probs among the words that sampling left, and of several words of a position, against torch's log_softmax."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from tests.unit.trainer.megatron.steps.plain_logprobs import TILINGS, assert_close, fused, supports, tensors, tile


def among(hidden: Tensor, weight: Tensor, labels: Tensor, support: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Each token's logits gathered over its own words, softmax over those."""
    values = []
    for h, label, own in zip(hidden, labels, support.long(), strict=True):
        own = own[own >= 0] if (own >= 0).any() else torch.arange(len(weight))
        logp = (weight[own] @ h / temperature).log_softmax(-1)
        values.append(torch.stack([logp[own == label].sum(), -(logp.exp() * logp).sum()]))
    logprobs, entropies = torch.stack(values).unbind(1)
    return logprobs, entropies


@pytest.mark.parametrize("tiling", TILINGS)
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_log_probs_among_the_words_that_were_left_and_their_gradients_are_those_of_float64(
    tiling: tuple[int, int], temperature: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    tile(monkeypatch, *tiling)
    hidden, weight, labels = tensors()
    support = supports(labels, len(weight), 6)
    exact = [x.detach().double().requires_grad_() for x in (hidden, weight)]
    factors = torch.randn(2, len(labels))
    given = {"temperature": temperature, "entropy": True, "entropy_gradient": True, "support": support}
    got, expected = fused(hidden, weight, labels, **given), among(*exact, labels, support, temperature)
    for mine, theirs in zip(got, expected, strict=True):
        assert_close(mine, theirs)
    assert got[0][0].abs() < 1e-6, "the only word that was left has probability 1"
    assert torch.equal(fused(hidden, weight, labels, **given | {"entropy": False})[0], got[0])
    for share in ([1, 0], [0, 1], [1, 1]):
        loss = [sum(s * f @ x.to(f) for s, f, x in zip(share, factors, side, strict=True)) for side in (got, expected)]
        mine = torch.autograd.grad(loss[0], (hidden, weight), retain_graph=True)
        theirs = torch.autograd.grad(loss[1], exact, retain_graph=True)
        for one, other in zip(mine, theirs, strict=True):
            assert_close(one, other)


def test_without_a_limit_the_words_left_are_all() -> None:
    hidden, weight, labels = tensors()
    full = fused(hidden, weight, labels)[0]
    assert torch.equal(fused(hidden, weight, labels, support=torch.full((9, 3), -1))[0], full)


@pytest.mark.parametrize("entropy_gradient", [False, True])
@pytest.mark.parametrize("tiling", TILINGS)
def test_several_words_of_a_position_have_the_values_and_gradients_of_log_softmax(
    tiling: tuple[int, int], entropy_gradient: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A word may be named twice, and -1 is none."""
    tile(monkeypatch, *tiling)
    hidden, weight, labels = tensors(used=17)
    words = torch.randint(0, 17, (len(labels), 5))
    words[0], words[1, 2:], words[2, 0] = -1, -1, labels[2]
    exact = [x.detach().double().requires_grad_() for x in (hidden, weight)]
    named = torch.cat([labels[:, None], words], 1)
    options = {"temperature": 0.7, "vocabulary": 17, "entropy": True, "entropy_gradient": entropy_gradient}
    got, entropy = fused(hidden, weight, named, **options)
    logp = (F.linear(exact[0], exact[1][:17]) / 0.7).log_softmax(-1)
    expected = torch.where(named < 0, 0.0, logp.gather(1, named.clamp(min=0)))
    assert_close(got, expected)
    assert torch.equal(got[:, 0], fused(hidden, weight, labels, **options)[0])
    factors = torch.randn(named.shape)
    loss, reference = (factors * got).sum(), (factors.double() * expected).sum()
    if entropy_gradient:
        loss, reference = loss + entropy.sum(), reference - (logp.exp() * logp).sum()
    for mine, theirs in zip(
        torch.autograd.grad(loss, (hidden, weight)), torch.autograd.grad(reference, exact), strict=True
    ):
        assert_close(mine, theirs)

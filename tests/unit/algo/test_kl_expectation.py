"""Monte Carlo: what each KL estimator and its gradient are in expectation, on a categorical distribution of six tokens.

Every comparison is within four standard errors of the mean, and the error bar is small enough to tell the right answer
from the nearest wrong one: a test that passes because its error bar is wide says nothing.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from rlscale.algo.kl import kl, unbiased

OUTCOMES = 6
SAMPLES = 400_000


def softmax_logits(seed: int) -> Tensor:
    """[6] standard normal logits."""
    return torch.randn(OUTCOMES, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


LOGITS = softmax_logits(1)
REFERENCE = softmax_logits(2).log_softmax(0)
OLD = (LOGITS + 0.5 * softmax_logits(3)).log_softmax(0)
"""Another policy, which sampled."""


def forward_kl(logits: Tensor) -> Tensor:
    """KL(policy || reference), by summing over the outcomes."""
    policy = logits.log_softmax(0)
    return (policy.exp() * (policy - REFERENCE)).sum()


def reverse_kl(logits: Tensor) -> Tensor:
    """KL(reference || policy), which the gradients of some estimators really follow."""
    return (REFERENCE.exp() * (REFERENCE - logits.log_softmax(0))).sum()


def gradient_of(function, logits: Tensor = LOGITS) -> Tensor:
    """[6] the exact gradient of a number that depends on the logits."""
    return torch.autograd.functional.jacobian(function, logits)


def estimates(estimator: str, logits: Tensor, old: Tensor | None) -> Tensor:
    """[6] the estimate for each outcome; corrected for samples from `old` where it is given."""
    policy = logits.log_softmax(0)
    values, clamped = kl(estimator, policy, REFERENCE)
    if old is not None:
        values, _ = unbiased(values, policy, old)
    assert not torch.any(clamped), "no bound may be active in this comparison"
    return values


def sampled(per_outcome: Tensor, logprobs: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """Mean over samples of what each outcome gives, and its standard error: [6, ...] -> ([...], [...])."""
    draw = torch.Generator().manual_seed(seed)
    drawn = per_outcome[torch.multinomial(logprobs.exp(), SAMPLES, replacement=True, generator=draw)]
    return drawn.mean(0), drawn.std(0) / SAMPLES**0.5


def sampled_gradient(estimator: str, old: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Mean gradient [6] of the estimate used as a loss on samples of the policy (or of `old`), and its error [6]."""
    per_outcome = torch.autograd.functional.jacobian(lambda x: estimates(estimator, x, old), LOGITS)
    return sampled(per_outcome, LOGITS.log_softmax(0) if old is None else old, seed=7)


def assert_agrees(mean: Tensor, error: Tensor, right: Tensor, *, wrong: dict[str, Tensor]) -> None:
    """Within four standard errors of the right value everywhere, and over twelve from each wrong one somewhere."""
    assert ((mean - right).abs() <= 4 * error).all(), f"{mean} +- {error} is not {right}"
    for name, value in wrong.items():
        assert ((value - right).abs() > 16 * error).any(), f"the error bar cannot tell the right value from {name}"
        assert ((mean - value).abs() > 12 * error).any(), f"{mean} +- {error} could be {name}"


def test_the_distributions_are_a_fair_example() -> None:
    ratio = (LOGITS.log_softmax(0) - OLD).exp()
    assert ratio.min() < 0.8
    assert ratio.max() > 1.25
    assert 0.1 < forward_kl(LOGITS) < 3.0


@pytest.mark.parametrize("estimator", ["k1", "k3"])
def test_k1_and_unclamped_k3_are_the_kl_in_expectation(estimator: str) -> None:
    policy = LOGITS.log_softmax(0)
    mean, error = sampled(estimates(estimator, LOGITS, None), policy, seed=5)
    k2 = (policy.exp() * estimates("k2", LOGITS, None)).sum()
    wrong = {"k2": k2, "the other direction": reverse_kl(LOGITS), "zero": torch.zeros(())}
    assert_agrees(mean, error, forward_kl(LOGITS), wrong=wrong)


def test_k2_is_not_the_kl_in_expectation() -> None:
    mean, error = sampled(estimates("k2", LOGITS, None), LOGITS.log_softmax(0), seed=5)
    assert abs(mean - forward_kl(LOGITS)) > 12 * error


def test_k3_varies_less_than_k1_near_the_reference() -> None:
    near = REFERENCE + 0.1 * LOGITS
    _, of_k1 = sampled(estimates("k1", near, None), near.log_softmax(0), seed=5)
    _, of_k3 = sampled(estimates("k3", near, None), near.log_softmax(0), seed=5)
    assert of_k3 < 0.3 * of_k1


def test_the_gradient_of_k2_is_the_gradient_of_the_kl() -> None:
    wrong = {"the other direction": gradient_of(reverse_kl), "zero": torch.zeros(OUTCOMES)}
    assert_agrees(*sampled_gradient("k2"), gradient_of(forward_kl), wrong=wrong)


def test_the_gradient_of_k1_as_a_loss_is_zero_in_expectation() -> None:
    wrong = {"that of the KL": gradient_of(forward_kl), "the other direction": gradient_of(reverse_kl)}
    assert_agrees(*sampled_gradient("k1"), torch.zeros(OUTCOMES, dtype=torch.float64), wrong=wrong)


def test_the_gradient_of_k3_as_a_loss_is_that_of_the_other_direction() -> None:
    wrong = {"that of the KL": gradient_of(forward_kl), "zero": torch.zeros(OUTCOMES)}
    assert_agrees(*sampled_gradient("k3"), gradient_of(reverse_kl), wrong=wrong)


@pytest.mark.parametrize("old", [LOGITS.log_softmax(0), OLD], ids=["on policy", "off policy"])
@pytest.mark.parametrize("estimator", ["k1", "k3"])
def test_the_gradient_of_an_unbiased_estimator_is_that_of_the_kl_whoever_sampled(estimator: str, old: Tensor) -> None:
    wrong = {"the other direction": gradient_of(reverse_kl), "zero": torch.zeros(OUTCOMES)}
    assert_agrees(*sampled_gradient(estimator, old), gradient_of(forward_kl), wrong=wrong)


@pytest.mark.parametrize("estimator", ["k1", "k3"])
def test_an_unbiased_estimator_is_the_kl_in_expectation_under_another_policy(estimator: str) -> None:
    mean, error = sampled(estimates(estimator, LOGITS, OLD), OLD, seed=6)
    uncorrected = (OLD.exp() * estimates(estimator, LOGITS, None)).sum()
    assert_agrees(mean, error, forward_kl(LOGITS), wrong={"no correction": uncorrected, "zero": torch.zeros(())})


def test_an_unbiased_k2_has_the_gradient_of_its_own_expectation_which_is_not_the_kl() -> None:
    def expectation(logits: Tensor) -> Tensor:
        return (logits.log_softmax(0).exp() * estimates("k2", logits, None)).sum()

    wrong = {"that of the KL": gradient_of(forward_kl), "zero": torch.zeros(OUTCOMES)}
    assert_agrees(*sampled_gradient("k2", OLD), gradient_of(expectation), wrong=wrong)

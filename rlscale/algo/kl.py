"""Estimators of the KL divergence from a reference, per token, from the log-probs of the sampled token alone."""

from __future__ import annotations

import torch
from torch import Tensor

from rlscale.algo.exponent import EXPONENT_BOUND, bounded

ESTIMATORS = ("k1", "k2", "k3", "low_var_kl")

LOW_VAR_BOUND = 10.0


def kl(estimator: str, logprobs: Tensor, ref_logprobs: Tensor) -> tuple[Tensor, Tensor]:
    """Per-token estimate of KL(policy || reference) with d = logprobs - ref_logprobs.

    Shapes: logprobs [T], ref_logprobs [T] -> (estimate [T], was_clamped [T] bool), gradient through `logprobs`.

        k1          d                        unbiased; as a loss its expected gradient is zero
        k2          d^2 / 2                  biased; its gradient is the gradient of KL
        k3          exp(-d) - 1 + d          unbiased, never negative
        low_var_kl  k3 clamped to +-10

    Source: J. Schulman, "Approximating KL divergence" (2020); k3 in GRPO: arXiv 2402.03300, eq. 4.
    """
    d = logprobs - ref_logprobs
    if estimator == "k1":
        return d, torch.zeros_like(d, dtype=torch.bool)
    if estimator == "k2":
        return d.square() / 2, torch.zeros_like(d, dtype=torch.bool)
    if estimator not in ESTIMATORS:
        raise ValueError(f"unknown KL estimator {estimator!r}; known are {', '.join(ESTIMATORS)}")
    negative, clamped = bounded(-d)
    # Past the lower bound the exponential passes no gradient; the linear term alone would push the token further away.
    linear = torch.where(d.detach() < -EXPONENT_BOUND, d.detach(), d)
    k3 = torch.expm1(negative) + linear
    return (k3.clamp(-LOW_VAR_BOUND, LOW_VAR_BOUND) if estimator == "low_var_kl" else k3), clamped


def unbiased(estimate: Tensor, logprobs: Tensor, old_logprobs: Tensor) -> tuple[Tensor, Tensor]:
    """Correct an estimate for samples from `old`: estimate * exp(logprobs - old_logprobs), with gradient through both.

    Shapes: all [T] -> (corrected [T], was_clamped [T] bool). On policy the value stays; the gradient is that of KL.
    """
    exponent, clamped = bounded(logprobs - old_logprobs)
    return estimate * exponent.exp(), clamped

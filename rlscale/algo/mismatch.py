"""How far the trainer's log-probs are from those of the engine that sampled: the metrics, as sums that add over ranks.

With w = exp(old - rollout) over the selected tokens:

    mean and max |old - rollout|,  k3 = mean(w - 1 - log w),  ESS = (sum w)^2 / (n sum w^2),  chi-square = mean w^2 - 1,
    outside = share of tokens with w under 0.5 or over 2, the default bounds of `mis` (`corrections.MIS_UPPER`)
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from rlscale.algo.corrections import MIS_UPPER
from rlscale.algo.exponent import bounded

NOTHING_SEEN = float("-inf")
"""Maximum over no token: the neutral element of a maximum over ranks."""


def mismatch_sums(old_logprobs: Tensor, rollout_logprobs: Tensor, selected: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    """Sums over the selected tokens from which `summarise` makes the metrics.

    Shapes: old_logprobs, rollout_logprobs [T], selected [T] bool -> (float64 scalars tokens, abs, k3, weight,
    weight_squared and outside, clamped [T] bool). No gradient.
    """
    difference = torch.where(selected, old_logprobs.detach().double() - rollout_logprobs.double(), 0.0)
    exponent, clamped = bounded(difference)
    weight = torch.where(selected, exponent.exp(), 0.0)
    sums = {
        "tokens": selected.sum(dtype=torch.float64),
        "abs": difference.abs().sum(),
        "k3": torch.where(selected, torch.expm1(exponent) - difference, 0.0).sum(),
        "weight": weight.sum(),
        "weight_squared": weight.square().sum(),
        "outside": (difference.abs() > math.log(MIS_UPPER)).sum(dtype=torch.float64),
    }
    return sums, clamped


def largest_difference(old_logprobs: Tensor, rollout_logprobs: Tensor, selected: Tensor) -> Tensor:
    """Largest |old - rollout| over the selected tokens, a float64 scalar; -inf when none is selected.

    Shapes: old_logprobs, rollout_logprobs [T], selected [T] bool -> [].
    """
    difference = (old_logprobs.detach().double() - rollout_logprobs.double()).abs()
    return largest(difference, selected)


def largest(values: Tensor, selected: Tensor) -> Tensor:
    """Largest of the selected values, a float64 scalar; -inf when none is. Shapes: values [T], selected [T] bool."""
    candidates = torch.where(selected, values.detach().double(), NOTHING_SEEN)
    return torch.cat([candidates.reshape(-1), candidates.new_full((1,), NOTHING_SEEN)]).max()


def summarise(sums: Mapping[str, float]) -> dict[str, float]:
    """The metrics from sums that were added over micro-batches and ranks; empty when no token was selected."""
    tokens = sums["tokens"]
    if tokens <= 0:
        return {}
    return {
        "abs_mean": sums["abs"] / tokens,
        "k3": sums["k3"] / tokens,
        "ess": sums["weight"] ** 2 / (tokens * sums["weight_squared"]),
        "chi2": sums["weight_squared"] / tokens - 1.0,
        "outside": sums["outside"] / tokens,
    }

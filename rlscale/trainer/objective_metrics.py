"""Metrics of an objective: sums and maxima of a micro-batch, which add over micro-batches and ranks."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from rlscale.algo import kl as kl_terms
from rlscale.algo.losses import PolicyLoss
from rlscale.algo.mismatch import largest, largest_difference, mismatch_sums, summarise
from rlscale.data.batches.fields import APPROXIMATE

_MISMATCH = "mismatch/"
_OWN = "own/"
_MTP = "mtp/"
_COUNTS = ("tokens", "clamped_tokens")
"""Sums that are reported as they are; every other plain sum is reported as its mean over the trainable tokens."""


@dataclass
class Metrics:
    """Sums and maxima of one micro-batch. Keys depend on the configuration only: ranks can reduce them as a vector."""

    sums: dict[str, Tensor]
    """float64 scalars, added over micro-batches, context- and data-parallel ranks. Always has `tokens`."""
    maxima: dict[str, Tensor]
    """float64 scalars, of which the largest is taken; -inf where no token was seen."""


def finish(sums: Mapping[str, float | Tensor], maxima: Mapping[str, float | Tensor]) -> dict[str, float]:
    """Metrics from sums and maxima that were reduced over the micro-batches and ranks of a step or an iteration.

    Counts (`tokens`, `clamped_tokens`) stay, plain sums become means over trainable tokens, mismatch sums become
    `logprob_diff_mean`, `logprob_diff_max` (tokens of the trainer's own version, but for those that an engine generated
    approximately) and `mismatch_*` (all generated tokens). A metric that no token contributed to is left out.
    """
    total = {name: float(value) for name, value in sums.items()}
    tokens = total["tokens"]
    metrics = {name: total[name] for name in _COUNTS if name in total}
    plain = [name for name in total if name not in _COUNTS and "/" not in name]
    if tokens > 0:
        metrics.update({name: total[name] / tokens for name in plain})
    if _MISMATCH + "tokens" in total:
        every = {name.removeprefix(_MISMATCH): value for name, value in total.items() if name.startswith(_MISMATCH)}
        metrics.update({f"mismatch_{name}": value for name, value in summarise(every).items()})
        if every["tokens"] > 0:
            metrics["staleness_mean"] = every["staleness"] / every["tokens"]
        if total[_OWN + "tokens"] > 0:
            metrics["logprob_diff_mean"] = total[_OWN + "abs"] / total[_OWN + "tokens"]
        metrics["logprob_diff_tokens"] = total[_OWN + "tokens"]
    if total.get(_MTP + "tokens"):
        metrics["mtp_loss"] = total[_MTP + "loss"] / total[_MTP + "tokens"]
    metrics.update({name: float(value) for name, value in maxima.items() if math.isfinite(value)})
    return metrics


def mismatch_of(first_step: Mapping[str, float], metrics: Mapping[str, float]) -> dict[str, float]:
    """The metrics of an iteration with those of the trainer-engine mismatch as its first step alone had them.

    For an objective whose `mismatch_drifts`: after the first step the current weights are not those that sampled.
    """
    kept = {name: value for name, value in metrics.items() if not _is_mismatch(name)}
    return kept | {name: value for name, value in first_step.items() if _is_mismatch(name)}


def _is_mismatch(name: str) -> bool:
    return name.startswith(("mismatch_", "logprob_diff_"))


def masked_sum(values: Tensor, mask: Tensor) -> Tensor:
    """Sum of the selected values, a float64 scalar without gradient. Shapes: values [T], mask [T] bool -> []."""
    return torch.where(mask, values.detach().double(), 0.0).sum()


def policy_sums(policy: PolicyLoss, logprobs: Tensor, old_logprobs: Tensor) -> dict[str, Tensor]:
    """Per-token values [T] of the metrics that every policy loss has; `ppo_kl` estimates KL(old || current)."""
    k3, _ = kl_terms.kl("k3", old_logprobs.detach(), logprobs.detach())
    return {
        "ppo_kl": old_logprobs - logprobs,
        "ppo_kl_k3": k3,
        "ratio_mean": policy.ratio,
        "clip_fraction_low": policy.clipped_low,
        "clip_fraction_high": policy.clipped_high,
    }


def add_mismatch(metrics: Metrics, trainer: Tensor, mask: Tensor, fields: Mapping[str, Tensor]) -> Tensor:
    """Add sums and maxima of the trainer's log-probs against the engine's; returns which tokens were clamped [T].

    Shapes: trainer [T], mask [T] bool. Tokens that no engine generated have version -1 and are left out.
    """
    rollout, versions = fields["rollout_logprobs"], fields["versions"]
    lag = fields["version"] - versions
    generated = mask & (versions >= 0)
    own = generated & (lag == 0)
    if APPROXIMATE in fields:
        own = own & ~fields[APPROXIMATE].bool()
    every, clamped = mismatch_sums(trainer, rollout, generated)
    metrics.sums.update({_MISMATCH + name: value for name, value in every.items()})
    metrics.sums[_MISMATCH + "staleness"] = masked_sum(lag, generated)
    own_sums, _ = mismatch_sums(trainer, rollout, own)
    metrics.sums.update({_OWN + name: own_sums[name] for name in ("tokens", "abs")})
    metrics.maxima["logprob_diff_max"] = largest_difference(trainer, rollout, own)
    metrics.maxima["mismatch_abs_max"] = largest_difference(trainer, rollout, generated)
    metrics.maxima["staleness_max"] = largest(lag, generated)
    return clamped

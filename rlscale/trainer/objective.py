"""The objective of a step: the pieces of `rlscale.algo` put together as the algorithm's configuration says.

Before the steps of an iteration, once for the whole batch (NumPy): `token_columns` gives advantages and loss weights.
In each micro-batch, on each rank (torch): `Objective` gives that micro-batch's share of the step's loss, and sums that
add over micro-batches and ranks; `finish` turns the added sums into metrics. Nothing is divided by a local count.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rlscale.algo import kl as kl_terms
from rlscale.algo import losses
from rlscale.algo.advantages import broadcast
from rlscale.algo.losses import PolicyLoss, SegmentSum
from rlscale.algo.mismatch import largest, largest_difference, mismatch_sums, summarise
from rlscale.algo.reduction import token_weights
from rlscale.algo.scores import score
from rlscale.config.errors import UserError
from rlscale.config.schema.algo import (
    AdvantageKind,
    AlgoConfig,
    ClipLoss,
    GspoLoss,
    KLEstimator,
    KLPlacement,
    LossConfig,
    OldLogprobs,
    SftLoss,
)

_MISMATCH = "mismatch/"
_OWN = "own/"
_COUNTS = ("tokens", "clamped_tokens")
"""Sums that are reported as they are; every other plain sum is reported as its mean over the trainable tokens."""


@dataclass
class Metrics:
    """Sums and maxima of one micro-batch. Keys depend on the configuration only: ranks can reduce them as a vector."""

    sums: dict[str, Tensor]
    """float64 scalars, added over micro-batches, context- and data-parallel ranks. Always has `tokens`."""
    maxima: dict[str, Tensor]
    """float64 scalars, of which the largest is taken; -inf where no token was seen."""


@dataclass(frozen=True)
class Objective:
    """The loss of an algorithm. Build it with `Objective.of`."""

    algo: AlgoConfig

    @classmethod
    def of(cls, algo: AlgoConfig) -> Objective:
        """The objective of a configuration. Raises UserError for one that this version cannot compute."""
        kl = algo.kl
        if type(algo.loss) not in _POLICY_LOSSES:
            raise UserError(
                f"algo.loss is {type(algo.loss).__name__}, which has no objective; choose algo/loss=clip|gspo|sft"
            )
        if kl.placement is KLPlacement.reward:
            raise UserError(
                f"algo.kl.placement=reward: algo.advantage={algo.advantage.value} never reads a KL term in the reward; "
                "use algo.kl.placement=loss, or none with algo.kl.coef=0"
            )
        if kl.placement is KLPlacement.loss and kl.estimator is KLEstimator.k1 and not kl.unbiased:
            raise UserError(
                "algo.kl.estimator=k1 as a loss has zero expected gradient; "
                "use k2, k3 or low_var_kl, or algo.kl.unbiased=true"
            )
        return cls(algo)

    @property
    def supervised(self) -> bool:
        """Labels instead of samples: log-probs at temperature 1, no ratio, no engine to compare with."""
        return isinstance(self.algo.loss, SftLoss)

    @property
    def needs_old(self) -> bool:
        """Whether the trainer computes `old_logprobs` in a pass of its own before the first step of an iteration."""
        if self.supervised:
            return False
        several = self.algo.steps_per_iteration * self.algo.epochs_per_iteration > 1
        return several or self.algo.old_logprobs is OldLogprobs.always

    @property
    def needs_reference(self) -> bool:
        """Whether the loss reads `ref_logprobs`."""
        return self.algo.kl.placement is not KLPlacement.none and self.algo.kl.coef != 0.0

    @property
    def needs_entropy(self) -> bool:
        """Whether `entropy` should be computed: it is a metric of every policy loss."""
        return self.needs_entropy_gradient or not self.supervised

    @property
    def needs_entropy_gradient(self) -> bool:
        """Whether the entropy is part of the loss; otherwise it may be computed without gradient."""
        return self.algo.entropy_coef != 0.0

    def __call__(
        self, logprobs: Tensor, entropy: Tensor | None, fields: Mapping[str, Tensor], segment_sum: SegmentSum
    ) -> tuple[Tensor, Metrics]:
        """This micro-batch's share of the step's loss, and its metrics.

        loss = sum_t weight_t (policy_t + kl.coef KL_t - entropy_coef H_t)

        Shapes: logprobs [T] and entropy [T] with gradient, aligned to the token they belong to; fields: loss_mask [T]
        bool, loss_weight, advantages [T] (advantages not for sft), old_logprobs [T] (absent: the current ones without
        gradient), ref_logprobs [T] (if `needs_reference`), rollout_logprobs and versions [T], version [] (the
        trainer's). segment_sum: see `algo.losses.SegmentSum`. Returns ([] with gradient, Metrics without).
        T may be 0. Values where loss_mask is False are never read.
        """
        mask = fields["loss_mask"].bool()
        lp = _clean(logprobs, mask, logprobs)
        old = _clean(fields["old_logprobs"], mask, lp) if "old_logprobs" in fields else lp.detach()
        weight = _clean(fields["loss_weight"], mask, lp)
        if self.supervised:
            policy = losses.sft(lp)
        else:
            inputs = _Inputs(lp, old, _clean(fields["advantages"], mask, lp), mask, segment_sum)
            policy = _POLICY_LOSSES[type(self.algo.loss)](self.algo.loss, inputs)
        per_token, clamped = policy.loss, policy.clamped

        sums = {"tokens": mask, **({} if self.supervised else _policy_sums(policy, lp, old))}
        if self.needs_reference:
            kl, kl_clamped = self._kl(lp, old, _clean(fields["ref_logprobs"], mask, lp))
            per_token, clamped = per_token + self.algo.kl.coef * kl, clamped | kl_clamped
            sums["kl"] = kl
        if entropy is not None:
            entropy = _clean(entropy, mask, lp)
            sums["entropy"] = entropy
        if self.needs_entropy_gradient:
            if entropy is None:
                raise ValueError(f"entropy_coef is {self.algo.entropy_coef} but no entropy was given")
            per_token = per_token - self.algo.entropy_coef * entropy

        metrics = Metrics({}, {} if self.supervised else {"ratio_max": largest(policy.ratio, mask)})
        if not self.supervised and "rollout_logprobs" in fields:
            clamped = clamped | _add_mismatch(metrics, old, mask, fields)
        sums["clamped_tokens"] = clamped
        metrics.sums.update({name: _masked_sum(value, mask) for name, value in sums.items()})
        return (weight * per_token).sum(), metrics

    def _kl(self, lp: Tensor, old: Tensor, ref: Tensor) -> tuple[Tensor, Tensor]:
        """The KL term per token and which tokens were clamped; all [T]."""
        value, clamped = kl_terms.kl(self.algo.kl.estimator.value, lp, ref)
        if not self.algo.kl.unbiased:
            return value, clamped
        value, also_clamped = kl_terms.unbiased(value, lp, old)
        return value, clamped | also_clamped


def finish(sums: Mapping[str, float | Tensor], maxima: Mapping[str, float | Tensor]) -> dict[str, float]:
    """Metrics from sums and maxima that were reduced over the micro-batches and ranks of a step or an iteration.

    Counts (`tokens`, `clamped_tokens`) stay, plain sums become means over trainable tokens, mismatch sums become
    `logprob_diff_mean`, `logprob_diff_max` (tokens of the trainer's own version) and `mismatch_*` (all generated
    tokens). A metric that no token contributed to is left out.
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
    metrics.update({name: float(value) for name, value in maxima.items() if math.isfinite(value)})
    return metrics


def token_columns(
    algo: AlgoConfig,
    *,
    rewards: NDArray[np.float64],
    groups: NDArray[np.int64],
    sample: NDArray[np.int64],
    lengths: NDArray[np.int64],
    step: NDArray[np.int64],
    mask: NDArray[np.bool_],
    max_response_tokens: int,
) -> dict[str, NDArray[np.float64]]:
    """The columns that a batch needs before it is divided: `loss_weight`, and `advantages` unless supervised.

    Shapes: rewards, groups [n] per sample; sample (index into rewards), lengths, step [rows] per segment; mask [T].
    Returns float64 [T] columns.
    """
    weights = token_weights(
        algo.reduction.value, mask, lengths=lengths, sample=sample, step=step, max_response_tokens=max_response_tokens
    )
    columns = {"loss_weight": weights}
    if algo.advantage is AdvantageKind.broadcast:
        columns["advantages"] = broadcast(score(algo.score.value, rewards, groups), sample, lengths, mask)
    return columns


@dataclass(frozen=True)
class _Inputs:
    """What a policy loss may read; all [T], zero where the mask is False."""

    logprobs: Tensor
    old: Tensor
    advantages: Tensor
    mask: Tensor
    segment_sum: SegmentSum


def _clip(config: LossConfig, x: _Inputs) -> PolicyLoss:
    assert isinstance(config, ClipLoss)
    bounds = {"eps_low": config.eps_low, "eps_high": config.eps_high}
    return losses.clip(x.logprobs, x.old, x.advantages, **bounds, dual_clip=config.dual_clip)


def _gspo(config: LossConfig, x: _Inputs) -> PolicyLoss:
    assert isinstance(config, GspoLoss)
    bounds = {"eps_low": config.eps_low, "eps_high": config.eps_high}
    return losses.gspo(x.logprobs, x.old, x.advantages, x.mask, x.segment_sum, **bounds)


def _sft(config: LossConfig, x: _Inputs) -> PolicyLoss:
    return losses.sft(x.logprobs)


_POLICY_LOSSES: dict[type[LossConfig], Callable[[LossConfig, _Inputs], PolicyLoss]] = {
    ClipLoss: _clip,
    GspoLoss: _gspo,
    SftLoss: _sft,
}


def _clean(column: Tensor, mask: Tensor, like: Tensor) -> Tensor:
    """The column in the log-probs' dtype (at least float32) with zeros where the mask is False, whatever stood."""
    dtype = like.dtype if like.dtype in (torch.float32, torch.float64) else torch.float32
    return torch.where(mask, column.to(dtype), 0.0)


def _masked_sum(values: Tensor, mask: Tensor) -> Tensor:
    return torch.where(mask, values.detach().double(), 0.0).sum()


def _policy_sums(policy: PolicyLoss, lp: Tensor, old: Tensor) -> dict[str, Tensor]:
    """Per-token values [T] of the metrics that every policy loss has; `ppo_kl` estimates KL(old || current)."""
    k3, _ = kl_terms.kl("k3", old.detach(), lp.detach())
    return {
        "ppo_kl": old - lp,
        "ppo_kl_k3": k3,
        "ratio_mean": policy.ratio,
        "clip_fraction_low": policy.clipped_low,
        "clip_fraction_high": policy.clipped_high,
    }


def _add_mismatch(metrics: Metrics, old: Tensor, mask: Tensor, fields: Mapping[str, Tensor]) -> Tensor:
    """Add trainer-against-engine sums and maxima; returns which tokens were clamped [T].

    Tokens that no engine generated have version -1 and are left out.
    """
    rollout, versions = fields["rollout_logprobs"], fields["versions"]
    lag = fields["version"] - versions
    generated = mask & (versions >= 0)
    own = generated & (lag == 0)
    every, clamped = mismatch_sums(old, rollout, generated)
    metrics.sums.update({_MISMATCH + name: value for name, value in every.items()})
    metrics.sums[_MISMATCH + "staleness"] = _masked_sum(lag, generated)
    own_sums, _ = mismatch_sums(old, rollout, own)
    metrics.sums.update({_OWN + name: own_sums[name] for name in ("tokens", "abs")})
    metrics.maxima["logprob_diff_max"] = largest_difference(old, rollout, own)
    metrics.maxima["mismatch_abs_max"] = largest_difference(old, rollout, generated)
    metrics.maxima["staleness_max"] = largest(lag, generated)
    return clamped

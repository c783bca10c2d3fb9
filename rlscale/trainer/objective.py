"""The objective of a step: the pieces of `rlscale.algo` put together as the algorithm's configuration says.

What looks at the whole batch is done beforehand (`preparation`). In each micro-batch, on each rank, `Objective` gives
that micro-batch's share of the step's loss, and sums that add over micro-batches and ranks (`objective_metrics`).
Nothing is divided by a local count.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from rlscale.algo import corrections, losses
from rlscale.algo import kl as kl_terms
from rlscale.algo.losses import PolicyLoss, SegmentSum
from rlscale.algo.mismatch import largest
from rlscale.algo.protocols import CorrectionInputs, LossInputs
from rlscale.config.derived.needs import AlgoNeeds, Moment
from rlscale.config.errors import UserError
from rlscale.config.schema.algo_config import (
    AlgoConfig,
    CispoLoss,
    ClipLoss,
    CustomLoss,
    GspoLoss,
    GspoTokenLoss,
    KLEstimator,
    KLPlacement,
    LossConfig,
    SapoLoss,
    SftLoss,
)
from rlscale.config.schema.correction_config import WeightKind
from rlscale.trainer.centering import centering_of
from rlscale.trainer.finite_loss import with_gradient_of_its_kind
from rlscale.trainer.hook_columns import token_columns
from rlscale.trainer.hook_results import checked_loss
from rlscale.trainer.hooks import build_hook
from rlscale.trainer.objective_metrics import Metrics, add_mismatch, masked_sum, policy_sums
from rlscale.trainer.step_corrections import importance_weights


@dataclass(frozen=True)
class Objective:
    """The loss of an algorithm. Build it with `Objective.of`."""

    algo: AlgoConfig

    @classmethod
    def of(cls, algo: AlgoConfig) -> Objective:
        """The objective of a configuration. Raises UserError for one that cannot be computed, hooks included."""
        kl = algo.kl
        if type(algo.loss) not in _POLICY_LOSSES:
            raise UserError(
                f"algo.loss is {type(algo.loss).__name__}, which has no objective; choose another algo/loss"
            )
        if kl.placement is KLPlacement.loss and kl.chosen is KLEstimator.k1 and not kl.unbiased:
            raise UserError(
                "algo.kl.estimator=k1 as a loss has zero expected gradient; "
                "use k2, k3 or low_var_kl, or algo.kl.unbiased=true"
            )
        if isinstance(algo.loss, CustomLoss):
            build_hook("loss", algo.loss.function)
        if algo.correction.weight is WeightKind.custom:
            build_hook("correction", algo.correction.function)
        return cls(algo)

    @property
    def supervised(self) -> bool:
        """Labels instead of samples: log-probs at temperature 1, no ratio, no engine to compare with."""
        return self.needs.supervised

    @cached_property
    def needs(self) -> AlgoNeeds:
        """What the algorithm reads besides what it trains on."""
        return AlgoNeeds.of_algo(self.algo)

    @property
    def needs_old(self) -> bool:
        """Whether the ranks compute `old_logprobs` before the first step of an iteration."""
        return self.needs.makes("old_logprobs", Moment.ranks)

    @property
    def needs_reference(self) -> bool:
        """Whether the loss reads `ref_logprobs`; a KL term in the reward is read by `preparation` instead."""
        return self.needs.kl_in_loss

    @property
    def reads_reference(self) -> bool:
        """Whether the ranks compute `ref_logprobs` if the batch brings none: for a KL term, or for one's own loss."""
        return self.needs.makes("ref_logprobs", Moment.ranks)

    @property
    def needs_entropy(self) -> bool:
        """Whether `entropy` should be computed: it is a metric of every policy loss."""
        return self.needs_entropy_gradient or not self.supervised

    @property
    def needs_entropy_gradient(self) -> bool:
        """Whether the entropy is part of the loss; otherwise it may be computed without gradient."""
        return self.algo.entropy_coef != 0.0

    @property
    def mismatch_drifts(self) -> bool:
        """Whether only the iteration's first step measures trainer against engine: see `objective_metrics.mismatch_of`.

        With `correction.bypass` the old log-probs are the engine's own, and no pass of the trainer's over the same
        weights exists: the current ones stand in, which from the second step on also contain what training changed.
        """
        return self.algo.correction.bypass

    def __call__(
        self,
        logprobs: Tensor,
        entropy: Tensor | None,
        fields: Mapping[str, Tensor],
        segment_sum: SegmentSum,
        word_logprobs: Tensor | None = None,
    ) -> tuple[Tensor, Metrics]:
        """This micro-batch's share of the step's loss, and its metrics.

        loss = sum_t weight_t (correction_t policy_t + A_t centering_t + kl.coef KL_t - entropy_coef H_t)

        Shapes: logprobs [T] and entropy [T] with gradient, aligned to the token they belong to; fields: loss_mask [T]
        bool, loss_weight, advantages [T] (advantages not for sft), old_logprobs [T] (absent: the current ones without
        gradient), ref_logprobs [T] (if `needs_reference`), correction [T] (if `weighs_ahead`), rollout_logprobs and
        versions [T], version [] (the trainer's), sampler_words and sampler_logprobs [T, K] (if `needs.sampler_words`).
        word_logprobs [T, K]: log-probs with gradient of the words that the field names. segment_sum: see
        `algo.losses.SegmentSum`. Returns ([] with gradient, Metrics without). T may be 0. Values where loss_mask is
        False are never read. A loss that is not finite has a NaN gradient, so that the step is skipped.
        """
        mask = fields["loss_mask"].bool()
        lp = _clean(logprobs, mask, logprobs)
        old = _clean(fields["old_logprobs"], mask, lp) if "old_logprobs" in fields else lp.detach()
        weight = _clean(fields["loss_weight"], mask, lp)
        sums: dict[str, Tensor] = {"tokens": mask}
        if self.supervised:
            policy = losses.sft(lp)
            per_token, clamped = policy.loss, policy.clamped
        else:
            reads = self.algo.loss.reads if isinstance(self.algo.loss, CustomLoss) else ()
            columns = token_columns("loss", fields, mask, lp.dtype, reads)
            inputs = LossInputs(lp, old, _clean(fields["advantages"], mask, lp), mask, segment_sum, columns)
            policy, per_token, clamped = self._corrected(inputs, fields, word_logprobs, sums)
        if self.needs_reference:
            kl, kl_clamped = self._kl(lp, old, _clean(fields["ref_logprobs"], mask, lp))
            per_token, clamped = per_token + self.algo.kl.coef * kl, clamped | kl_clamped
            sums["kl"] = kl
        if self.needs_entropy_gradient and entropy is None:
            raise ValueError(f"entropy_coef is {self.algo.entropy_coef} but no entropy was given")
        if entropy is not None:
            sums["entropy"] = _clean(entropy, mask, lp)
        if self.needs_entropy_gradient:
            per_token = per_token - self.algo.entropy_coef * sums["entropy"]

        metrics = Metrics({}, {} if self.supervised else {"ratio_max": largest(policy.ratio, mask)})
        if not self.supervised and "rollout_logprobs" in fields:
            clamped = clamped | add_mismatch(metrics, lp if self.mismatch_drifts else old, mask, fields)
        sums["clamped_tokens"] = clamped
        metrics.sums.update({name: masked_sum(value, mask) for name, value in sums.items()})
        return with_gradient_of_its_kind((weight * per_token).sum(), lp), metrics

    def _corrected(
        self, x: LossInputs, fields: Mapping[str, Tensor], word_logprobs: Tensor | None, sums: dict[str, Tensor]
    ) -> tuple[PolicyLoss, Tensor, Tensor]:
        """The policy loss, and with its corrections: per token [T], and which tokens were clamped [T].

        Adds per-token values of its metrics to the sums.
        """
        policy = _POLICY_LOSSES[type(self.algo.loss)](self.algo.loss, x)
        sums |= policy_sums(policy, x.logprobs, x.old_logprobs)
        factor, clamped = self._correction(x, fields, sums)
        per_token = policy.loss if factor is None else factor * policy.loss
        if word_logprobs is not None:
            centering = centering_of(self.algo.correction, word_logprobs, fields, x.mask)
            per_token = per_token + x.advantages * centering.score
            sums |= {"centering_gap": centering.gap, "centering_tail": centering.tail}
        return policy, per_token, clamped | policy.clamped

    def _kl(self, lp: Tensor, old: Tensor, ref: Tensor) -> tuple[Tensor, Tensor]:
        """The KL term per token and which tokens were clamped; all [T]."""
        value, clamped = kl_terms.kl(self.algo.kl.chosen.value, lp, ref)
        if not self.algo.kl.unbiased:
            return value, clamped
        value, also_clamped = kl_terms.unbiased(value, lp, old)
        return value, clamped | also_clamped

    def _correction(
        self, x: LossInputs, fields: Mapping[str, Tensor], sums: dict[str, Tensor]
    ) -> tuple[Tensor | None, Tensor]:
        """The factor [T] on the policy loss, without gradient (None for 1), and which tokens were clamped [T].

        Adds per-token values of its metrics to the sums. Weights that the batch does not bring are those of single
        tokens, from the old log-probs or, where no pass was made for them, from the current ones without gradient.
        """
        config = self.algo.correction
        clamped = torch.zeros_like(x.mask)
        factor = None
        if self.needs.weighs_ahead:
            factor = _clean(fields["correction"], x.mask, x.logprobs)
        elif config.weight is not WeightKind.none:
            generated = x.mask & (fields["versions"] >= 0)
            log_ratio = corrections.log_ratio(x.old_logprobs, fields["rollout_logprobs"], generated)
            columns = token_columns("correction", fields, x.mask, x.logprobs.dtype)
            given = CorrectionInputs(log_ratio, generated, x.segment_sum, columns)
            result = importance_weights(config, self.needs.weight_level, given)
            factor, clamped = result.weights.to(x.logprobs.dtype), result.clamped
            sums |= {"correction_mean": factor, "correction_outside": result.outside}
        if config.opsm_delta is not None:
            generated = x.mask & (fields["versions"] >= 0)
            current, rollout = x.logprobs.detach(), fields["rollout_logprobs"]
            masked = corrections.off_policy_masked(
                current, rollout, x.advantages, generated, x.segment_sum, delta=config.opsm_delta
            )
            sums["opsm_masked"] = masked
            factor = torch.where(masked, 0.0, torch.ones_like(x.logprobs.detach()) if factor is None else factor)
        return factor, clamped


def _clip(config: LossConfig, x: LossInputs) -> PolicyLoss:
    assert isinstance(config, ClipLoss)
    bounds = {"eps_low": config.eps_low, "eps_high": config.eps_high}
    return losses.clip(x.logprobs, x.old_logprobs, x.advantages, **bounds, dual_clip=config.dual_clip)


def _gspo(config: LossConfig, x: LossInputs) -> PolicyLoss:
    assert isinstance(config, GspoLoss)
    loss = losses.gspo_token if isinstance(config, GspoTokenLoss) else losses.gspo
    bounds = {"eps_low": config.eps_low, "eps_high": config.eps_high}
    return loss(x.logprobs, x.old_logprobs, x.advantages, x.mask, x.segment_sum, **bounds)


def _cispo(config: LossConfig, x: LossInputs) -> PolicyLoss:
    assert isinstance(config, CispoLoss)
    return losses.cispo(x.logprobs, x.old_logprobs, x.advantages, eps_low=config.eps_low, eps_high=config.eps_high)


def _sapo(config: LossConfig, x: LossInputs) -> PolicyLoss:
    assert isinstance(config, SapoLoss)
    taus = {"tau_positive": config.tau_positive, "tau_negative": config.tau_negative}
    return losses.sapo(x.logprobs, x.old_logprobs, x.advantages, **taus)


def _custom(config: LossConfig, x: LossInputs) -> PolicyLoss:
    assert isinstance(config, CustomLoss)
    result = build_hook("loss", config.function)(x)
    policy = checked_loss(result, x.logprobs)
    policy.loss = torch.where(x.mask, policy.loss, 0.0)
    return policy


def _sft(config: LossConfig, x: LossInputs) -> PolicyLoss:
    return losses.sft(x.logprobs)


_POLICY_LOSSES: dict[type[LossConfig], Callable[[LossConfig, LossInputs], PolicyLoss]] = {
    ClipLoss: _clip,
    GspoLoss: _gspo,
    GspoTokenLoss: _gspo,
    CispoLoss: _cispo,
    SapoLoss: _sapo,
    SftLoss: _sft,
    CustomLoss: _custom,
}


def _clean(column: Tensor, mask: Tensor, like: Tensor) -> Tensor:
    """The column in the log-probs' dtype (at least float32) with zeros where the mask is False, whatever stood."""
    dtype = like.dtype if like.dtype in (torch.float32, torch.float64) else torch.float32
    return torch.where(mask, column.to(dtype), 0.0)

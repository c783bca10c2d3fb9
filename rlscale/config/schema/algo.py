"""The algorithm: a score, a KL term, an advantage, a policy loss, a correction and a reduction, each its own group."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from omegaconf import MISSING

from rlscale.config.schema.section import Section


class ScoreKind(Enum):
    """From the rewards of a group to one score per sample."""

    none = "none"
    group_mean_std = "group_mean_std"
    group_mean = "group_mean"
    leave_one_out = "leave_one_out"
    raw = "raw"


class KLPlacement(Enum):
    """Where a KL term enters."""

    none = "none"
    loss = "loss"
    reward = "reward"


class KLEstimator(Enum):
    """Estimators of the KL divergence from the reference."""

    k1 = "k1"
    k2 = "k2"
    k3 = "k3"
    low_var_kl = "low_var_kl"


class AdvantageKind(Enum):
    """From scores to one advantage per trainable token."""

    none = "none"
    broadcast = "broadcast"


class Reduction(Enum):
    """How per-token losses become the step's loss."""

    sample_mean = "sample_mean"
    sample_sum = "sample_sum"
    token_mean = "token_mean"
    constant = "constant"


class OldLogprobs(Enum):
    """When the trainer computes log-probs before the first step of an iteration."""

    auto = "auto"
    always = "always"


@dataclass
class KLConfig(Section):
    """The KL term to the reference model."""

    placement: KLPlacement = KLPlacement.none
    """Where the term enters: nowhere, as a loss, or in the reward."""
    estimator: KLEstimator = KLEstimator.k3
    """Which estimator."""
    coef: float = 0.0
    """Weight of the term."""
    unbiased: bool = False
    """Multiply the estimate by the ratio, so that its gradient is unbiased off policy."""


@dataclass
class LossConfig(Section):
    """A policy loss; each `algo/loss=` option is a schema of its own."""


@dataclass
class ClipLoss(LossConfig):
    """PPO's clipped surrogate, per token."""

    eps_low: float = 0.2
    """Lower clip: ratios under 1 - eps_low get no gradient where A < 0."""
    eps_high: float = 0.2
    """Upper clip: ratios over 1 + eps_high get no gradient where A > 0."""
    dual_clip: float | None = None
    """Bound c > 1 on the loss where A < 0; null for none."""


@dataclass
class GspoLoss(LossConfig):
    """Group sequence policy optimisation: one ratio per segment, clipped."""

    eps_low: float = 3e-4
    """Lower clip of the segment's ratio."""
    eps_high: float = 4e-4
    """Upper clip of the segment's ratio."""


@dataclass
class SftLoss(LossConfig):
    """Supervised fine-tuning: minus the log-prob of the label, at temperature 1."""


@dataclass
class AlgoConfig(Section):
    """The algorithm. Mathematics and sources: docs/algorithms.md."""

    name: str = MISSING
    """Name of the algorithm."""
    score: ScoreKind = ScoreKind.group_mean_std
    """From the rewards of a group to one score per sample."""
    advantage: AdvantageKind = AdvantageKind.broadcast
    """From scores to one advantage per trainable token."""
    kl: KLConfig = MISSING
    """The KL term; filled by the group `algo/kl`."""
    loss: LossConfig = MISSING
    """The policy loss; filled by the group `algo/loss`."""
    reduction: Reduction = Reduction.sample_mean
    """How per-token losses become the step's loss."""
    entropy_coef: float = 0.0
    """Weight of the entropy bonus."""
    steps_per_iteration: int = 1
    """Optimizer steps into which the groups of one iteration are divided."""
    epochs_per_iteration: int = 1
    """Times that the steps of one iteration are repeated."""
    old_logprobs: OldLogprobs = OldLogprobs.auto
    """`auto` skips the trainer's own pass where the first step's log-probs are the same numbers; `always` makes it."""

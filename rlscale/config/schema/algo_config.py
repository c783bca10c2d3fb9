"""The algorithm: a score, an advantage, a KL term, a policy loss, a correction and a reduction, each its own group."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from omegaconf import MISSING

from rlscale.config.schema.correction_config import CorrectionConfig
from rlscale.config.schema.section import Section


class ScoreKind(Enum):
    """From the rewards of a group to one score per sample."""

    none = "none"
    group_mean_std = "group_mean_std"
    group_mean = "group_mean"
    leave_one_out = "leave_one_out"
    raw = "raw"
    custom = "custom"


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


class ReductionKind(Enum):
    """How per-token losses become the step's loss."""

    sample_mean = "sample_mean"
    sample_sum = "sample_sum"
    token_mean = "token_mean"
    constant = "constant"
    custom = "custom"


class OldLogprobs(Enum):
    """When the trainer computes log-probs before the first step of an iteration, and by which weights."""

    auto = "auto"
    """By the present weights, where the first step does not give the same numbers."""
    always = "always"
    """By the present weights."""
    behaviour = "behaviour"
    """Each token's by the weights of the version that sampled it."""


@dataclass
class ScoreConfig(Section):
    """From the rewards of a group to one score per sample."""

    kind: ScoreKind = MISSING
    """Which score; `custom` is your function."""
    function: dict[str, Any] = field(default_factory=dict)
    """`_target_` of a rlscale.algo.protocols.Score and its arguments, for `custom`."""


@dataclass
class AdvantageConfig(Section):
    """From scores to one advantage per trainable token; each `algo/advantage=` option is a schema of its own."""


@dataclass
class NoAdvantage(AdvantageConfig):
    """Zero everywhere: for supervised training, and for distillation alone."""


@dataclass
class BroadcastAdvantage(AdvantageConfig):
    """The sample's score on every trainable token (GRPO and its relatives)."""


@dataclass
class ReturnsAdvantage(AdvantageConfig):
    """The discounted sum of the rewards that follow, KL term included (REINFORCE++)."""

    gamma: float = 1.0
    """Discount per trainable token."""


@dataclass
class BaselineAdvantage(AdvantageConfig):
    """The sample's score minus the token's own KL term (REINFORCE++-baseline)."""


@dataclass
class GaeAdvantage(AdvantageConfig):
    """Generalised advantage estimation from a critic's values (PPO)."""

    gamma: float = 1.0
    """Discount per trainable token."""
    lam: float = 1.0
    """GAE's lambda: 1 sums all rewards that follow, 0 looks one token ahead."""


@dataclass
class CustomAdvantage(AdvantageConfig):
    """Your function."""

    function: dict[str, Any] = field(default_factory=dict)
    """`_target_` of a rlscale.algo.protocols.Advantage and its arguments."""
    reads: list[str] = field(default_factory=list)
    """Columns computed for it: any of old_logprobs, ref_logprobs, teacher_logprobs, values."""


@dataclass
class KLConfig(Section):
    """The KL term to the reference model."""

    placement: KLPlacement = KLPlacement.none
    """Where the term enters: nowhere, as a loss, or in the reward."""
    estimator: KLEstimator | None = None
    """Which estimator; null is k1 in the reward and k3 as a loss."""
    coef: float = 0.0
    """Weight of the term."""
    unbiased: bool = False
    """Multiply the estimate by the ratio, so that its gradient is unbiased off policy."""

    @property
    def chosen(self) -> KLEstimator:
        """The estimator, or where none is given the default of its place."""
        if self.estimator is not None:
            return self.estimator
        return KLEstimator.k1 if self.placement is KLPlacement.reward else KLEstimator.k3


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
class GspoTokenLoss(GspoLoss):
    """GSPO with the segment's ratio as value and each token's own gradient, for advantages that differ by token."""


@dataclass
class CispoLoss(LossConfig):
    """REINFORCE weighted by the clipped ratio: a clip bounds the weight and never removes a token's gradient."""

    eps_low: float = 1.0
    """Lower clip of the weight; 1 is no lower bound."""
    eps_high: float = 4.0
    """Upper clip of the weight."""


@dataclass
class SapoLoss(LossConfig):
    """A sigmoid gate of the ratio instead of a clip."""

    tau_positive: float = 1.0
    """Temperature of the gate where A > 0."""
    tau_negative: float = 1.05
    """Temperature of the gate elsewhere; larger forgets off-policy tokens faster."""


@dataclass
class SftLoss(LossConfig):
    """Supervised fine-tuning: minus the log-prob of the label, at temperature 1."""


@dataclass
class CustomLoss(LossConfig):
    """Your function."""

    function: dict[str, Any] = field(default_factory=dict)
    """`_target_` of a rlscale.algo.protocols.Loss and its arguments."""


@dataclass
class ReductionConfig(Section):
    """How per-token losses become the step's loss."""

    kind: ReductionKind = MISSING
    """Which reduction; `custom` is your function."""
    function: dict[str, Any] = field(default_factory=dict)
    """`_target_` of a rlscale.algo.protocols.Reduction and its arguments, for `custom`."""


@dataclass
class OverlongConfig(Section):
    """A penalty in the reward for responses that come near the length limit (DAPO's soft overlong punishment)."""

    penalty: float = 0.0
    """Taken off the reward of a response at the length limit; 0 for none."""
    cache_tokens: int | None = None
    """Tokens before the limit over which the penalty grows linearly; null is a fifth of rollout.max_response_tokens."""


@dataclass
class RefillConfig(Section):
    """Groups whose rewards are all equal teach nothing: drop them and generate others (DAPO's dynamic sampling)."""

    drop_equal: bool = False
    """Whether groups with equal rewards are dropped and replaced."""
    max_dropped: float = 1.0
    """Most groups replaced per iteration, as a share of rollout.groups_per_iteration; past it they are kept."""


@dataclass
class AlgoConfig(Section):
    """The algorithm. Mathematics and sources: docs/algorithms.md."""

    name: str = MISSING
    """Name of the algorithm."""
    score: ScoreConfig = MISSING
    """From the rewards of a group to one score per sample; filled by the group `algo/score`."""
    advantage: AdvantageConfig = MISSING
    """From scores to one advantage per trainable token; filled by the group `algo/advantage`."""
    kl: KLConfig = MISSING
    """The KL term; filled by the group `algo/kl`."""
    loss: LossConfig = MISSING
    """The policy loss; filled by the group `algo/loss`."""
    correction: CorrectionConfig = MISSING
    """What is done about trainer and engine disagreeing; filled by the group `algo/correction`."""
    reduction: ReductionConfig = MISSING
    """How per-token losses become the step's loss; filled by the group `algo/reduction`."""
    whiten: bool = False
    """Shift and scale the advantages of an iteration's trainable tokens to mean 0 and variance 1."""
    distil_coef: float = 0.0
    """Weight of the teacher: coef (old - teacher) is taken off every advantage; 0 loads no teacher."""
    overlong: OverlongConfig = field(default_factory=OverlongConfig)
    """Penalty for responses near the length limit."""
    refill: RefillConfig = field(default_factory=RefillConfig)
    """What happens to groups without a signal."""
    entropy_coef: float = 0.0
    """Weight of the entropy bonus."""
    steps_per_iteration: int = 1
    """Optimizer steps into which the groups of one iteration are divided."""
    epochs_per_iteration: int = 1
    """Times that the steps of one iteration are repeated."""
    old_logprobs: OldLogprobs = OldLogprobs.auto
    """The pass before the first step: `auto` where needed, `always`, or `behaviour`, by the weights that sampled."""

"""The algorithm: a score, an advantage, a KL term, a policy loss, a correction and a reduction, each its own group."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from omegaconf import MISSING

from rlscale.config.schema.about import SUPERVISED, Limit, Unread, bounded, key
from rlscale.config.schema.correction_config import CorrectionConfig
from rlscale.config.schema.limits import GATE, RATIO, STEPS, TOKENS, WEIGHT
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
class AdvantageConfig(Section, group="algo/advantage"):
    """From scores to one advantage per trainable token; each `algo/advantage=` option is a schema of its own."""


@dataclass
class NoAdvantage(AdvantageConfig, option="none", schema="no_advantage_schema"):
    """Zero everywhere: for supervised training, and for distillation alone."""


@dataclass
class BroadcastAdvantage(AdvantageConfig, option="broadcast"):
    """The sample's score on every trainable token (GRPO and its relatives)."""


@dataclass
class ReturnsAdvantage(AdvantageConfig, option="returns"):
    """The discounted sum of the rewards that follow, KL term included (REINFORCE++)."""

    gamma: float = bounded(1.0, at_least=0, at_most=1)
    """Discount per trainable token."""


@dataclass
class BaselineAdvantage(AdvantageConfig, option="baseline"):
    """The sample's score minus the token's own KL term (REINFORCE++-baseline)."""


@dataclass
class GaeAdvantage(AdvantageConfig, option="gae"):
    """Generalised advantage estimation from a critic's values (PPO)."""

    gamma: float = bounded(1.0, at_least=0, at_most=1)
    """Discount per trainable token."""
    lam: float = bounded(1.0, at_least=0, at_most=1)
    """GAE's lambda: 1 sums all rewards that follow, 0 looks one token ahead."""


@dataclass
class CustomAdvantage(AdvantageConfig, option="custom", schema="custom_advantage_schema"):
    """Your function."""

    function: dict[str, Any] = field(default_factory=dict)
    """`_target_` of a rlscale.algo.protocols.Advantage and its arguments."""
    reads: list[str] = field(default_factory=list)
    """Columns computed for it: any of old_logprobs, ref_logprobs, teacher_logprobs, values."""


_NO_KL = Unread(
    lambda kl: kl.placement is KLPlacement.none,
    " is never read, because algo.kl.placement=none; choose algo/kl=loss",
)
_KL_IN_REWARD = Unread(
    lambda kl: kl.placement is KLPlacement.reward,
    " is never read with algo.kl.placement=reward, because a reward has no gradient; set it to false, or use "
    "algo/kl=loss",
)


@dataclass
class KLConfig(Section):
    """The KL term to the reference model."""

    placement: KLPlacement = KLPlacement.none
    """Where the term enters: nowhere, as a loss, or in the reward."""
    estimator: KLEstimator | None = key(None, unread=[_NO_KL])
    """Which estimator; null is k1 in the reward and k3 as a loss."""
    coef: float = bounded(0.0, at_least=0, limit=WEIGHT, unread=[_NO_KL])
    """Weight of the term."""
    unbiased: bool = key(False, unread=[_NO_KL, _KL_IN_REWARD])
    """Multiply the estimate by the ratio, so that its gradient is unbiased off policy."""

    @property
    def chosen(self) -> KLEstimator:
        """The estimator, or where none is given the default of its place."""
        if self.estimator is not None:
            return self.estimator
        return KLEstimator.k1 if self.placement is KLPlacement.reward else KLEstimator.k3


@dataclass
class LossConfig(Section, group="algo/loss"):
    """A policy loss; each `algo/loss=` option is a schema of its own."""


@dataclass
class ClipLoss(LossConfig, option="clip"):
    """PPO's clipped surrogate, per token."""

    eps_low: float = bounded(0.2, at_least=0, at_most=1)
    """Lower clip: ratios under 1 - eps_low get no gradient where A < 0."""
    eps_high: float = bounded(0.2, at_least=0, limit=RATIO)
    """Upper clip: ratios over 1 + eps_high get no gradient where A > 0."""
    dual_clip: float | None = bounded(None, above=1, limit=RATIO)
    """Bound c > 1 on the loss where A < 0; null for none."""


@dataclass
class GspoLoss(LossConfig, option="gspo"):
    """Group sequence policy optimisation: one ratio per segment, clipped."""

    eps_low: float = bounded(3e-4, at_least=0, at_most=1)
    """Lower clip of the segment's ratio."""
    eps_high: float = bounded(4e-4, at_least=0, limit=RATIO)
    """Upper clip of the segment's ratio."""


@dataclass
class GspoTokenLoss(GspoLoss, option="gspo_token"):
    """GSPO with the segment's ratio as value and each token's own gradient, for advantages that differ by token."""


@dataclass
class CispoLoss(LossConfig, option="cispo"):
    """REINFORCE weighted by the clipped ratio: a clip bounds the weight and never removes a token's gradient."""

    eps_low: float = bounded(1.0, at_least=0, at_most=1)
    """Lower clip of the weight; at 1 there is no lower bound."""
    eps_high: float = bounded(4.0, at_least=0, limit=RATIO)
    """Upper clip of the weight."""


@dataclass
class SapoLoss(LossConfig, option="sapo"):
    """A sigmoid gate of the ratio instead of a clip."""

    tau_positive: float = bounded(1.0, above=0, limit=GATE)
    """Temperature of the gate where A > 0."""
    tau_negative: float = bounded(1.05, above=0, limit=GATE)
    """Temperature of the gate elsewhere; larger forgets off-policy tokens faster."""


@dataclass
class SftLoss(LossConfig, option="sft"):
    """Supervised fine-tuning: minus the log-prob of the label, at temperature 1."""


@dataclass
class CustomLoss(LossConfig, option="custom", schema="custom_loss_schema"):
    """Your function."""

    function: dict[str, Any] = field(default_factory=dict)
    """`_target_` of a rlscale.algo.protocols.Loss and its arguments."""
    reads: list[str] = field(default_factory=list)
    """Columns computed for it: any of ref_logprobs, teacher_logprobs, and values where there is a critic."""


@dataclass
class ReductionConfig(Section):
    """How per-token losses become the step's loss."""

    kind: ReductionKind = MISSING
    """Which reduction; `custom` is your function."""
    function: dict[str, Any] = field(default_factory=dict)
    """`_target_` of a rlscale.algo.protocols.Reduction and its arguments, for `custom`."""


_NO_PENALTY = Unread(
    lambda overlong: not overlong.penalty,
    " is never read with algo.overlong.penalty=0; set it to null, or give a penalty",
)


@dataclass
class OverlongConfig(Section):
    """A penalty in the reward for responses that come near the length limit (DAPO's soft overlong punishment)."""

    penalty: float = bounded(0.0, at_least=0, limit=WEIGHT)
    """Taken off the reward of a response at the length limit; 0 for none."""
    cache_tokens: int | None = bounded(None, at_least=1, limit=TOKENS, unread=[_NO_PENALTY])
    """Tokens before the limit over which the penalty grows linearly; null is a fifth of rollout.max_response_tokens."""


@dataclass
class RefillConfig(Section):
    """Groups whose rewards are all equal teach nothing: drop them and generate others (DAPO's dynamic sampling)."""

    drop_equal: bool = False
    """Whether groups with equal rewards are dropped and replaced."""
    max_dropped: float = bounded(
        1.0, above=0, limit=Limit(1000, "an iteration would generate its groups that many times over")
    )
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
    kl: KLConfig = key(MISSING, unread=[SUPERVISED])
    """The KL term; filled by the group `algo/kl`."""
    loss: LossConfig = MISSING
    """The policy loss; filled by the group `algo/loss`."""
    correction: CorrectionConfig = key(MISSING, unread=[SUPERVISED])
    """What is done about trainer and engine disagreeing; filled by the group `algo/correction`."""
    reduction: ReductionConfig = MISSING
    """How per-token losses become the step's loss; filled by the group `algo/reduction`."""
    whiten: bool = key(False, unread=[SUPERVISED])
    """Shift and scale the advantages of an iteration's trainable tokens to mean 0 and variance 1."""
    turn_discount: float | None = bounded(None, at_least=0, at_most=1, unread=[SUPERVISED])
    """Discount from one turn of an episode to the turn before, each turn credited with its own reward and those that
    follow; null credits all turns with their sum."""
    distil_coef: float = bounded(0.0, at_least=0, limit=WEIGHT, unread=[SUPERVISED])
    """Weight of the teacher: coef (old - teacher) is taken off every advantage; 0 loads no teacher."""
    overlong: OverlongConfig = key(OverlongConfig, unread=[SUPERVISED])
    """Penalty for responses near the length limit."""
    refill: RefillConfig = key(RefillConfig, unread=[SUPERVISED])
    """What happens to groups without a signal."""
    entropy_coef: float = bounded(0.0, at_least=0, limit=WEIGHT, unread=[SUPERVISED])
    """Weight of the entropy bonus."""
    steps_per_iteration: int = bounded(1, at_least=1, limit=STEPS)
    """Optimizer steps into which the groups of one iteration are divided."""
    epochs_per_iteration: int = bounded(1, at_least=1, limit=STEPS)
    """Times that the steps of one iteration are repeated."""
    old_logprobs: OldLogprobs = key(OldLogprobs.auto, unread=[SUPERVISED])
    """The pass before the first step: `auto` where needed, `always`, or `behaviour`, by the weights that sampled."""

"""What is done about the trainer and the engine giving the same token different log-probs, from w = exp(old - rollout).

Three ways, all without gradient: a weight on each token's policy loss (`importance_weights`), segments that are left
out (`rejected`), and segments that are left out where they would push probabilities down (`off_policy_masked`).
Metrics of the mismatch itself are in `mismatch.py`. Tokens that no engine generated have no rollout log-prob: the
caller takes them out of `mask`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from rlscale.algo.exponent import bounded
from rlscale.algo.losses import SegmentSum

KINDS = ("tis", "icepop", "mis")
LEVELS = ("token", "sequence", "geometric")
ACTIONS = ("truncate", "clip", "mask")

TIS_LOWER = 0.0
TIS_UPPER = 2.0
ICEPOP_LOWER = 0.5
ICEPOP_UPPER = 5.0
MIS_UPPER = 2.0
"""Upper bound of mis; its lower bound is 1 / upper."""


@dataclass
class CorrectionResult:
    """Weights and what their metrics need. All tensors are [T], without gradient."""

    weights: Tensor
    """Factor on each token's policy loss; 1 where there is nothing to correct."""
    outside: Tensor
    """bool: the token's (or its segment's) ratio is outside the bounds."""
    clamped: Tensor
    """bool: the exponent passed its bound of +-20."""


def log_ratio(old_logprobs: Tensor, rollout_logprobs: Tensor, mask: Tensor) -> Tensor:
    """log w = old - rollout, 0 where the mask is False, whatever stands there.

    Shapes: old_logprobs, rollout_logprobs [T], mask [T] bool -> [T], float32 or wider, without gradient.
    """
    dtype = torch.promote_types(torch.promote_types(old_logprobs.dtype, rollout_logprobs.dtype), torch.float32)
    return torch.where(mask, old_logprobs.detach().to(dtype) - rollout_logprobs.detach().to(dtype), 0.0)


def bounds(kind: str, action: str, lower: float | None, upper: float | None) -> tuple[float, float]:
    """The bounds of the weights of a kind; None is its default.

    tis 0 .. 2; icepop 0.5 .. 5; mis 1 / upper .. 2, or 0 .. 2 for the action `truncate`, which has no lower bound.
    Raises ValueError for an unknown kind or action, a lower bound for `truncate`, or bounds in the wrong order.
    """
    if kind not in KINDS:
        raise ValueError(f"unknown correction {kind!r}; known are {', '.join(KINDS)}")
    if action not in ACTIONS:
        raise ValueError(f"unknown action {action!r}; known are {', '.join(ACTIONS)}")
    if kind == "mis" and action == "truncate" and lower is not None:
        raise ValueError(f"the action truncate has no lower bound, so {lower} would not act; use clip or mask")
    high = upper if upper is not None else {"tis": TIS_UPPER, "icepop": ICEPOP_UPPER, "mis": MIS_UPPER}[kind]
    if not high > 0.0:
        raise ValueError(f"the upper bound of a weight must be positive, not {high}")
    if lower is not None:
        low = lower
    elif kind == "mis":
        low = 0.0 if action == "truncate" else 1.0 / high
    else:
        low = TIS_LOWER if kind == "tis" else ICEPOP_LOWER
    if not 0.0 <= low <= high:
        raise ValueError(f"the bounds of a weight must satisfy 0 <= lower <= upper, not {low} and {high}")
    return low, high


def importance_weights(
    kind: str,
    log_ratio: Tensor,
    mask: Tensor,
    segment_sum: SegmentSum,
    *,
    level: str,
    action: str = "truncate",
    lower: float | None = None,
    upper: float | None = None,
) -> CorrectionResult:
    """Importance weights from w = exp(l), where l is clamped to +-20 and is by level

        token      log_ratio_t
        sequence   sum_s m log_ratio           over the token's segment s
        geometric  sum_s m log_ratio / sum_s m

    and the weight is by kind

        tis     clip(w, lower, upper)
        icepop  w if lower <= w <= upper else 0
        mis     truncate: min(w, upper);  clip: clip(w, lower, upper);  mask: w if lower <= w <= upper else 0

    Shapes: log_ratio [T], mask [T] bool -> [T]. `action` is read by mis alone; bounds of None are those of `bounds`,
    which raises ValueError. At the levels of a segment all its tokens get its weight. A token out of the mask, at token
    level, or of a segment without any token in it has weight 1.
    Source: TIS, Yao et al., "Your efficient RL framework secretly brings you off-policy RL training" (2025); IcePop,
    Ling team (arXiv 2510.18855); MIS and the geometric level, Liu et al., "When speed kills stability" (2025).
    """
    low, high = bounds(kind, action, lower, upper)
    level_ratio, selected = _at_level(level, log_ratio.detach(), mask, segment_sum)
    exponent, clamped = bounded(level_ratio)
    ratio = exponent.exp()
    outside = (ratio < low) | (ratio > high)
    if kind == "icepop" or (kind == "mis" and action == "mask"):
        weights = torch.where(outside, 0.0, ratio)
    else:
        weights = ratio.clamp(low, high)
    return CorrectionResult(torch.where(selected, weights, 1.0), outside & selected, clamped & selected)


def rejected(
    log_ratio: Tensor,
    mask: Tensor,
    segment_sum: SegmentSum,
    *,
    level: str | None,
    lower: float | None,
    upper: float | None,
    veto: float | None,
) -> Tensor:
    """Whether the token's segment is left out: its ratio is outside the bounds, or a token of it is under the veto.

    Shapes: log_ratio [T], mask [T] bool -> [T] bool, the same for all tokens of a segment. Levels are those of
    `importance_weights`; at token level one token outside rejects its segment. A bound of None does not act, nor does a
    `level` of None, nor a `veto` of None. Ratios are compared as logarithms, so that nothing overflows.
    Raises ValueError for an unknown level, bounds without a level, negative bounds or bounds in the wrong order.
    Source: as `importance_weights` (rejection sampling and token veto).
    """
    if level is None and (lower is not None or upper is not None):
        raise ValueError(f"bounds of {lower} and {upper} need a level: {', '.join(LEVELS)}")
    if lower is not None and upper is not None and lower > upper:
        raise ValueError(f"the lower bound {lower} is over the upper bound {upper}")
    log_ratio = log_ratio.detach()
    reasons = torch.zeros_like(mask)
    if level is not None:
        value, selected = _at_level(level, log_ratio, mask, segment_sum)
        if lower is not None:
            reasons = reasons | (selected & (value < _log("lower", lower)))
        if upper is not None:
            reasons = reasons | (selected & (value > _log("upper", upper)))
    if veto is not None:
        reasons = reasons | (mask & (log_ratio < _log("veto", veto)))
    return segment_sum(reasons.to(log_ratio.dtype)) > 0.5


def off_policy_masked(
    logprobs: Tensor,
    rollout_logprobs: Tensor,
    advantages: Tensor,
    mask: Tensor,
    segment_sum: SegmentSum,
    *,
    delta: float,
) -> Tensor:
    """Off-policy sequence masking: whether the token's policy loss becomes 0, because A_t < 0 and its segment drifted.

        A_t < 0  and  sum_s m (rollout - lp) / sum_s m > delta

    Shapes: logprobs (of the current weights), rollout_logprobs, advantages [T], mask [T] bool -> [T] bool. A segment
    without a token in the mask is never masked. Source: DeepSeek-V3.2 (arXiv 2512.02556), eq. 9.
    """
    drift, selected = _at_level("geometric", -log_ratio(logprobs, rollout_logprobs, mask), mask, segment_sum)
    return (advantages < 0) & selected & (drift > delta)


def _at_level(level: str, log_ratio: Tensor, mask: Tensor, segment_sum: SegmentSum) -> tuple[Tensor, Tensor]:
    """The log ratio of each token's level, and whether any token in the mask contributed to it; both [T]."""
    if level not in LEVELS:
        raise ValueError(f"unknown level {level!r}; known are {', '.join(LEVELS)}")
    log_ratio = torch.where(mask, log_ratio, 0.0)
    if level == "token":
        return log_ratio, mask
    tokens = segment_sum(mask.to(log_ratio.dtype))
    total = segment_sum(log_ratio)
    return (total if level == "sequence" else total / tokens.clamp(min=1.0)), tokens > 0.5


def _log(name: str, bound: float) -> float:
    if not bound >= 0.0:
        raise ValueError(f"{name} is a bound of a ratio and cannot be {bound}")
    return math.log(bound) if bound > 0.0 else -math.inf

"""Policy losses, per token. `reduction.token_weights` turns them into the loss of a step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from rlscale.algo.exponent import bounded

SegmentSum = Callable[[Tensor], Tensor]
"""[T] -> [T]: every token gets the sum over its segment (over all context-parallel ranks), differentiable."""


@dataclass
class PolicyLoss:
    """A per-token loss and what its metrics need. All tensors are [T]; only `loss` carries a gradient."""

    loss: Tensor
    """Loss of each token, to be multiplied by its weight and summed."""
    ratio: Tensor
    """The ratio that the loss used."""
    clipped_low: Tensor
    """bool: the token lost its gradient to the lower clip."""
    clipped_high: Tensor
    """bool: the token lost its gradient to the upper clip (or to the dual clip)."""
    clamped: Tensor
    """bool: an exponent passed its bound of +-20."""


def clip(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    *,
    eps_low: float,
    eps_high: float,
    dual_clip: float | None = None,
) -> PolicyLoss:
    """PPO's clipped surrogate: max(-ratio A, -clip(ratio, 1 - eps_low, 1 + eps_high) A), ratio = exp(lp - old).

    Shapes: logprobs, old_logprobs, advantages [T] -> [T]. With `dual_clip` = c > 1 the loss is at most -c A where A is
    negative.
    Source: PPO (arXiv 1707.06347), eq. 7; dual clip: arXiv 1912.09729; two bounds: DAPO (arXiv 2503.14476).
    """
    exponent, clamped = bounded(logprobs - old_logprobs)
    return _clipped(exponent.exp(), clamped, advantages, eps_low=eps_low, eps_high=eps_high, dual_clip=dual_clip)


def gspo(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    mask: Tensor,
    segment_sum: SegmentSum,
    *,
    eps_low: float,
    eps_high: float,
) -> PolicyLoss:
    """Group sequence policy optimisation: `clip` with one ratio per segment, the same for each of its tokens.

        ratio_s = exp( sum_t m_t (lp_t - old_t) / sum_t m_t )

    Shapes: logprobs, old_logprobs, advantages [T], mask [T] bool -> [T]. Source: GSPO (arXiv 2507.18071), eqs. 5 and 7.
    """
    difference = torch.where(mask, logprobs - old_logprobs, 0.0)
    tokens = segment_sum(mask.to(logprobs.dtype)).clamp(min=1.0)
    exponent, clamped = bounded(segment_sum(difference) / tokens)
    return _clipped(exponent.exp(), clamped, advantages, eps_low=eps_low, eps_high=eps_high, dual_clip=None)


def sft(logprobs: Tensor) -> PolicyLoss:
    """Supervised fine-tuning: -lp of the label, from logits at temperature 1.

    Shapes: logprobs [T] -> [T]. The ratio is 1: there is no older policy to compare with.
    """
    never = torch.zeros_like(logprobs, dtype=torch.bool)
    return PolicyLoss(-logprobs, torch.ones_like(logprobs), never, never, never)


def _clipped(
    ratio: Tensor, clamped: Tensor, advantages: Tensor, *, eps_low: float, eps_high: float, dual_clip: float | None
) -> PolicyLoss:
    """The clipped surrogate of a given ratio; see `clip`."""
    surrogate = -ratio * advantages
    bounded_surrogate = -ratio.clamp(1.0 - eps_low, 1.0 + eps_high) * advantages
    loss = torch.maximum(surrogate, bounded_surrogate)
    value = ratio.detach()
    clipped_low = (advantages < 0) & (value < 1.0 - eps_low)
    clipped_high = (advantages > 0) & (value > 1.0 + eps_high)
    if dual_clip is not None:
        loss = torch.where(advantages < 0, torch.minimum(loss, -dual_clip * advantages), loss)
        clipped_high = clipped_high | ((advantages < 0) & (value > dual_clip))
    return PolicyLoss(loss, value, clipped_low, clipped_high, clamped)

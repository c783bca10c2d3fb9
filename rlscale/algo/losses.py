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
    """bool: the token lost its gradient to the lower clip; in `cispo`, its weight was raised to the lower bound."""
    clipped_high: Tensor
    """bool: the token lost its gradient to the upper clip (or to the dual clip); in `cispo`, its weight was lowered."""
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
    exponent, clamped = bounded(_segment_mean(logprobs - old_logprobs, mask, segment_sum))
    return _clipped(exponent.exp(), clamped, advantages, eps_low=eps_low, eps_high=eps_high, dual_clip=None)


def gspo_token(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    mask: Tensor,
    segment_sum: SegmentSum,
    *,
    eps_low: float,
    eps_high: float,
) -> PolicyLoss:
    """GSPO for advantages that differ within a segment: the segment's ratio as value, the token's own gradient.

        ratio_st = sg(ratio_s) * exp(lp_t - sg(lp_t)),    ratio_s as in `gspo`

    Shapes: logprobs, old_logprobs, advantages [T], mask [T] bool -> [T]. With equal advantages and weights in a segment
    its value and gradient are those of `gspo`. A token of a segment whose exponent was clamped passes no gradient.
    Source: GSPO (arXiv 2507.18071), eqs. 13 and 14.
    """
    exponent, clamped = bounded(_segment_mean((logprobs - old_logprobs).detach(), mask, segment_sum))
    own = torch.where(mask & ~clamped, logprobs - logprobs.detach(), 0.0)
    ratio = exponent.exp() * own.exp()
    return _clipped(ratio, clamped, advantages, eps_low=eps_low, eps_high=eps_high, dual_clip=None)


def cispo(logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, *, eps_low: float, eps_high: float) -> PolicyLoss:
    """REINFORCE weighted by the clipped ratio; a clipped token keeps its gradient, with a bounded weight.

        -sg( clip(ratio, 1 - eps_low, 1 + eps_high) ) * A * lp,    ratio = exp(lp - old)

    Shapes: logprobs, old_logprobs, advantages [T] -> [T]. eps_low = 1 means no lower bound. The gradient is the weight
    times the policy gradient -A dlp; the value has no meaning of its own.
    Source: CISPO, MiniMax-M1 (arXiv 2506.13585), eqs. 4 and 5.
    """
    exponent, clamped = bounded((logprobs - old_logprobs).detach())
    ratio = exponent.exp()
    weight = ratio.clamp(1.0 - eps_low, 1.0 + eps_high)
    return PolicyLoss(-weight * advantages * logprobs, ratio, ratio < 1.0 - eps_low, ratio > 1.0 + eps_high, clamped)


def sapo(
    logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, *, tau_positive: float, tau_negative: float
) -> PolicyLoss:
    """Soft adaptive policy optimisation: a sigmoid gate of the ratio instead of a clip.

        -f(ratio) A,    f(x) = sigmoid(tau (x - 1)) * 4 / tau,    ratio = exp(lp - old)

    with tau = tau_positive where A > 0 and tau_negative elsewhere, both > 0. Shapes: logprobs, old_logprobs,
    advantages [T] -> [T]. f'(1) = 1: on policy the gradient is the policy gradient. No token counts as clipped.
    Source: SAPO (arXiv 2511.20347), eqs. 5 and 6.
    """
    exponent, clamped = bounded(logprobs - old_logprobs)
    ratio = exponent.exp()
    tau = torch.full_like(ratio, tau_negative, requires_grad=False).masked_fill(advantages > 0, tau_positive)
    never = torch.zeros_like(clamped)
    return PolicyLoss(
        -torch.sigmoid(tau * (ratio - 1.0)) * 4.0 / tau * advantages, ratio.detach(), never, never, clamped
    )


def sft(logprobs: Tensor) -> PolicyLoss:
    """Supervised fine-tuning: -lp of the label, from logits at temperature 1.

    Shapes: logprobs [T] -> [T]. The ratio is 1: there is no older policy to compare with.
    """
    never = torch.zeros_like(logprobs, dtype=torch.bool)
    return PolicyLoss(-logprobs, torch.ones_like(logprobs), never, never, never)


def _segment_mean(values: Tensor, mask: Tensor, segment_sum: SegmentSum) -> Tensor:
    """Mean of the selected values of each token's segment, [T]; 0 in a segment without any."""
    tokens = segment_sum(mask.to(values.dtype)).clamp(min=1.0)
    return segment_sum(torch.where(mask, values, 0.0)) / tokens


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

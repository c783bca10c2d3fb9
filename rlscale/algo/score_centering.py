"""Score centering: the sampler's expected score is taken off every trained token.

Where tokens are drawn from q (an engine with other kernels, quantised or older weights) and the trainer's distribution
is p, the expected gradient of an advantage A at one position has a part that no reward asked for:

    E_q[A grad log p_y] = E_q[A] sum_v q_v grad log p_v + signal

The first term, the drift, is 0 for q = p. It is subtracted by one more term of the token's loss,

    + A C,    C = sum_{v in H} sg(m_v - alpha p_v) log p_v

over the words H that q names, its likeliest. Of the others q tells the sum; they are taken to have the proportions
that they have under p,

    q_v = rho p_v,    rho = (1 - sum_H q) / (1 - sum_H p)

and since sum_v p_v grad log p_v = 0, their share stands in the sum over H. With importance weights w = p / q that are
bounded, the score is expected under w q:

    none      m = q                                 alpha = rho
    clipped   m = clip(p, low q, high q)            alpha = clip(1, low rho, high rho)
    zeroed    m = p if low q <= p <= high q else 0  alpha = 1 if low rho <= 1 <= high rho else 0

With weights that are not bounded there is no drift, and C is 0. p is that of the current weights, so the correction is
exact where the ratio of current to old weights is 1, as in the first step of an iteration.

Source: arXiv 2609.20807.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

_LEAST = 1e-6
"""Bound from below of what p leaves for the words outside H."""


@dataclass(frozen=True)
class Bounds:
    """Of the importance weights on the policy loss; without any the weight of every token is 1."""

    low: float
    high: float
    zeroed: bool
    """Whether a weight outside is 0 (icepop), and not the bound itself (tis)."""


@dataclass
class Centering:
    """The term of each token, and what its metrics need. All tensors are [T]."""

    score: Tensor
    """C, with gradient: what the advantage is a factor of."""
    gap: Tensor
    """sum_H |q - p| / 2: how far apart the distributions are on the words that are named."""
    tail: Tensor
    """1 - sum_H q: the probability of all words that are not named."""


def score_centering(logprobs: Tensor, sampler_logprobs: Tensor, named: Tensor, bounds: Bounds | None) -> Centering:
    """C of every token; 0, as are the other two, where no word is named.

    Shapes: logprobs (log p at each of the words H, with gradient) [T, K], sampler_logprobs (log q) [T, K], named bool
    [T, K]: whether there is a word; values elsewhere are not read -> [T]. A word may be named once only.
    """
    p = torch.where(named, logprobs.detach().exp(), 0.0)
    q = torch.where(named, sampler_logprobs.to(p.dtype).exp(), 0.0)
    tail = (1.0 - q.sum(1)).clamp(min=0.0)
    rho = tail / (1.0 - p.sum(1)).clamp(min=_LEAST)
    expected, of_tail = _weighted(p, q, rho, bounds)
    factor = torch.where(named, expected - of_tail[:, None] * p, 0.0)
    score = (factor * torch.where(named, logprobs, 0.0)).sum(1)
    return Centering(score, 0.5 * (q - p).abs().sum(1), torch.where(named.any(1), tail, 0.0))


def _weighted(p: Tensor, q: Tensor, rho: Tensor, bounds: Bounds | None) -> tuple[Tensor, Tensor]:
    """m [T, K] and alpha [T]: the importance weights times q, on H and in the tail (there in units of p)."""
    if bounds is None:
        return q, rho
    low, high, one = bounds.low, bounds.high, torch.ones_like(rho)
    if bounds.zeroed:
        return torch.where((low * q <= p) & (p <= high * q), p, 0.0), one * ((low * rho <= 1) & (high * rho >= 1))
    return torch.maximum(torch.minimum(p, high * q), low * q), torch.maximum(torch.minimum(one, high * rho), low * rho)

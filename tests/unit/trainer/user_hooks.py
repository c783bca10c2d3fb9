"""Hooks as a user would write them."""

from __future__ import annotations

import numpy as np
import torch

from rlscale.algo.losses import PolicyLoss


def half(rewards, groups):
    return rewards * 0.5


def too_short(rewards, groups):
    return rewards[:-1]


def not_finite(rewards, groups):
    return np.full(rewards.shape, np.nan)


def own_logprob(inputs, scale=1.0):
    """Reads a column, and leaves garbage where nothing is trainable."""
    return np.where(inputs.mask, scale * inputs.ref_logprobs, 7.0)


def score_minus_value(inputs):
    return np.repeat(inputs.scores[inputs.sample], inputs.lengths) - inputs.values


class Reinforce:
    """A loss with state that is set once."""

    def __init__(self, scale: float) -> None:
        self.scale = scale

    def __call__(self, logprobs, old_logprobs, advantages, mask, segment_sum):
        never = torch.zeros_like(mask)
        # Without a mask of its own: what it says of untrainable tokens is nobody's business.
        loss = -self.scale * advantages * logprobs + torch.where(mask, 0.0, 9.0)
        return PolicyLoss(loss, torch.ones_like(logprobs), never, never, never)


def mean_of_segment(log_ratio, mask, segment_sum):
    return (segment_sum(log_ratio) / segment_sum(mask.to(log_ratio.dtype)).clamp(min=1.0)).exp()


def one_over_tokens(mask, *, lengths, sample, step, max_response_tokens, scale=1.0):
    return np.full(mask.shape, scale / max_response_tokens)


def misses_an_argument(rewards, groups, needed):
    return rewards


class NeverCalled:
    """Has no __call__."""


class TakesOne:
    def __call__(self, one):
        return one


class Leaves:
    def __init__(self):
        raise SystemExit(3)


def not_finite_weight(log_ratio, mask, segment_sum):
    return torch.where(mask, torch.nan, log_ratio)


def detached(logprobs, old_logprobs, advantages, mask, segment_sum):
    never = torch.zeros_like(mask)
    return PolicyLoss(-logprobs.detach() * advantages, torch.ones_like(advantages), never, never, never)

"""Hooks as a user would write them."""

from __future__ import annotations

import numpy as np
import torch

from rlscale.algo.losses import PolicyLoss


def half(inputs):
    return inputs.rewards * 0.5


def too_short(inputs):
    return inputs.rewards[:-1]


def not_finite(inputs):
    return np.full(inputs.rewards.shape, np.nan)


def own_logprob(inputs, scale=1.0):
    """Reads a column, and leaves garbage where nothing is trainable."""
    return np.where(inputs.mask, scale * inputs.columns["ref_logprobs"], 7.0)


def score_minus_value(inputs):
    return np.repeat(inputs.scores[inputs.sample], inputs.lengths) - inputs.columns["values"]


class Reinforce:
    """A loss with state that is set once."""

    def __init__(self, scale: float) -> None:
        self.scale = scale

    def __call__(self, inputs):
        never = torch.zeros_like(inputs.mask)
        # Without a mask of its own: what it says of untrainable tokens is nobody's business.
        loss = -self.scale * inputs.advantages * inputs.logprobs + torch.where(inputs.mask, 0.0, 9.0)
        return PolicyLoss(loss, torch.ones_like(inputs.logprobs), never, never, never)


def towards_reference(inputs):
    """Half the square of the distance to the reference's log-probs."""
    never = torch.zeros_like(inputs.mask)
    distance = inputs.logprobs - inputs.columns["ref_logprobs"]
    return PolicyLoss(distance.square() / 2, torch.ones_like(inputs.advantages), never, never, never)


def mean_of_segment(inputs):
    tokens = inputs.segment_sum(inputs.mask.to(inputs.log_ratio.dtype))
    return (inputs.segment_sum(inputs.log_ratio) / tokens.clamp(min=1.0)).exp()


def one_over_tokens(inputs, scale=1.0):
    return np.full(inputs.mask.shape, scale / inputs.max_response_tokens)


def misses_an_argument(inputs, needed):
    return inputs.rewards


class NeverCalled:
    """Has no __call__."""


class TakesTwo:
    def __call__(self, one, two):
        return one


class Leaves:
    def __init__(self):
        raise SystemExit(3)

    def __call__(self, inputs):
        return inputs.rewards


def not_finite_weight(inputs):
    return torch.where(inputs.mask, torch.nan, inputs.log_ratio)


def detached(inputs):
    never = torch.zeros_like(inputs.mask)
    loss = -inputs.logprobs.detach() * inputs.advantages
    return PolicyLoss(loss, torch.ones_like(loss), never, never, never)

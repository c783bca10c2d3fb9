"""A loss and a correction as a user would write them, in place of shipped ones."""

from __future__ import annotations

import torch
from torch import Tensor

from rlscale.algo.losses import PolicyLoss
from rlscale.algo.protocols import CorrectionInputs, LossInputs


def gspo(inputs: LossInputs, eps_low: float, eps_high: float) -> PolicyLoss:
    """One ratio per segment, clipped: what algo/loss=gspo is."""
    logprobs, old_logprobs, advantages = inputs.logprobs, inputs.old_logprobs, inputs.advantages
    mask, segment_sum = inputs.mask, inputs.segment_sum
    tokens = segment_sum(mask.to(logprobs.dtype)).clamp(min=1)
    ratio = (segment_sum(torch.where(mask, logprobs - old_logprobs, 0.0)) / tokens).exp()
    plain, clipped = -ratio * advantages, -ratio.clamp(1 - eps_low, 1 + eps_high) * advantages
    lost = mask & (clipped > plain)
    low, high = lost & (ratio < 1), lost & (ratio > 1)
    return PolicyLoss(torch.maximum(plain, clipped), ratio.detach(), low, high, torch.zeros_like(mask))


def no_gradient(inputs: LossInputs) -> PolicyLoss:
    """A mistake: nothing to train on is left."""
    never = torch.zeros_like(inputs.mask)
    loss = -inputs.logprobs.detach() * inputs.advantages
    return PolicyLoss(loss, torch.ones_like(loss), never, never, never)


class Truncated:
    """The ratio of trainer and engine, at most `upper`: what algo/correction=tis is."""

    def __init__(self, upper: float) -> None:
        self.upper = upper

    def __call__(self, inputs: CorrectionInputs) -> Tensor:
        return inputs.log_ratio.exp().clamp(max=self.upper)

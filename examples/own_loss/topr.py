"""A loss of one's own: tapered off-policy REINFORCE (TOPR, arXiv 2503.14286)."""

from __future__ import annotations

import torch

from rlscale.algo.losses import PolicyLoss
from rlscale.algo.protocols import LossInputs


def tapered(inputs: LossInputs, most: float = 1.0) -> PolicyLoss:
    """REINFORCE for what was good; what was bad counts less, the less likely it has become, and never above `most`.

    So tokens of bad responses that the policy has left already do not push it any further.
    """
    difference = (inputs.logprobs - inputs.old_logprobs).detach()
    ratio = difference.clamp(-20, 20).exp()  # finite, however far apart the two are
    bad = inputs.advantages < 0
    weight = torch.where(bad, ratio.clamp(max=most), torch.ones_like(ratio))
    return PolicyLoss(
        loss=-weight * inputs.advantages * inputs.logprobs,
        ratio=ratio,
        clipped_low=torch.zeros_like(bad),
        clipped_high=bad & (ratio > most),
        clamped=difference.abs() > 20,
    )

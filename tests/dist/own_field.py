"""What somebody writes who wants a column of their own: the field, and a loss that reads it."""

from __future__ import annotations

import numpy as np
import torch

from rlscale.algo.losses import PolicyLoss
from rlscale.algo.protocols import LossInputs
from rlscale.data.batches.fields import FIELDS, Field, Scope

STRENGTH = FIELDS.register(Field("strength", np.float32, Scope.token))


def strengthened(inputs: LossInputs) -> PolicyLoss:
    """REINFORCE, each token as strong as its sample says."""
    never = torch.zeros_like(inputs.mask)
    loss = -inputs.columns["strength"] * inputs.advantages * inputs.logprobs
    return PolicyLoss(loss, torch.ones_like(inputs.advantages), never, never, never)

"""The critic's loss, and how much of the returns its values explain."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


@dataclass
class ValueLoss:
    """A per-token loss and what its metrics need. All tensors are [T]; only `loss` carries a gradient."""

    loss: Tensor
    """Loss of each token, to be multiplied by its weight and summed."""
    clipped: Tensor
    """bool: the token lost its gradient to the clip."""


def value_loss(values: Tensor, old_values: Tensor, returns: Tensor, *, clip: float | None) -> ValueLoss:
    """Squared error of the values, at least that of values which moved no further than `clip` from the old ones.

        1/2 max( (V - R)^2, (V_old + clip(V - V_old, -c, c) - R)^2 )

    Shapes: values [T] with gradient, old_values, returns [T] -> [T]. `clip` None leaves (V - R)^2 / 2.
    Source: the value clipping of the authors' PPO code (Engstrom et al., arXiv 2005.12729, section 3).
    """
    old_values, returns = old_values.detach(), returns.detach()
    error = (values - returns).square() / 2
    if clip is None:
        return ValueLoss(error, torch.zeros_like(values, dtype=torch.bool))
    moved = (values - old_values).detach()
    bounded_error = (old_values + moved.clamp(-clip, clip) - returns).square() / 2
    # Within the bound both errors are one and the same; outside, the larger one is the bounded error: no gradient.
    clipped = (moved.abs() > clip) & (bounded_error > error.detach())
    return ValueLoss(torch.where(clipped, bounded_error, error), clipped)


def explained_variance(values: NDArray[np.floating], returns: NDArray[np.floating], mask: NDArray[np.bool_]) -> float:
    """Share of the variance of the returns that the values explain: 1 - Var(R - V) / Var(R) over trainable tokens.

    Shapes: values, returns, mask [T] -> a number up to 1; negative when the values are worse than a constant. Returns
    that are all equal (or of no token) have no variance to explain: 0.
    """
    target = np.asarray(returns, dtype=np.float64)[mask]
    if target.size == 0 or target.max() == target.min():
        return 0.0
    error = target - np.asarray(values, dtype=np.float64)[mask]
    return float(1.0 - error.var() / target.var())

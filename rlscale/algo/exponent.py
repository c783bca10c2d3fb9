"""The bound on every exponent of a difference of log-probs: exp(20) is past every clip and far from infinity."""

from __future__ import annotations

from torch import Tensor

EXPONENT_BOUND = 20.0


def bounded(difference: Tensor) -> tuple[Tensor, Tensor]:
    """Clamp a difference of log-probs to +-20 before it is exponentiated.

    Shapes: difference [T] -> (clamped [T], was_clamped [T] bool). A clamped element passes no gradient.
    """
    return difference.clamp(-EXPONENT_BOUND, EXPONENT_BOUND), difference.detach().abs() > EXPONENT_BOUND

"""A loss that is not finite must not train: its gradient becomes NaN too, for which the optimizer skips the step."""

from __future__ import annotations

import torch
from torch import Tensor


def with_gradient_of_its_kind(loss: Tensor, outputs: Tensor) -> Tensor:
    """The loss, with a NaN gradient to every output if it is not finite.

    Clamps, maxima and selections pass a gradient of 0 to what was not a number: without this a step could be made whose
    loss is NaN. Gradients are summed over ranks, so that all of them skip the step. A finite loss and its gradient stay
    as they are.

    Shapes: loss [], outputs [T] (of the model, 0 where masked) -> []. T may be 0.
    """
    finite = torch.isfinite(loss.detach())
    factor = torch.where(finite, 1.0, torch.nan).to(loss.dtype)
    return torch.where(finite, loss, outputs.sum() * factor)

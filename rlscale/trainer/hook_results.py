"""What a user's hook returned, held against its protocol in every call: a mistake names the hook's key at once.

Only type, shape and whether numbers are finite; `hook_contract` tests the rest before a run.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rlscale.algo.losses import PolicyLoss
from rlscale.config.errors import UserError
from rlscale.trainer.hooks import HookKind, hook_key


def checked_array(kind: HookKind, result: Any, shape: tuple[int, ...]) -> NDArray[np.float64]:
    """The result of a score, an advantage or a reduction. UserError unless finite, float64 and of this shape."""
    if not isinstance(result, np.ndarray):
        raise _wrong(kind, f"a result of type {type(result).__name__}", "a NumPy array")
    if result.dtype != np.float64:
        raise _wrong(kind, f"an array of {result.dtype}", "float64")
    if result.shape != shape:
        raise _wrong(kind, f"an array of shape {result.shape}", str(shape))
    if not np.isfinite(result).all():
        raise _wrong(kind, "a number that is not finite", "finite ones")
    return result


def checked_loss(result: Any, logprobs: Tensor) -> PolicyLoss:
    """The result of a loss for log-probs [T]. UserError for other parts or shapes, or where no gradient would flow.

    Numbers that are not finite are left to the trainer, which skips such a step, counts it, and stops past a bound.
    """
    if not isinstance(result, PolicyLoss):
        raise _wrong("loss", f"a result of type {type(result).__name__}", "a rlscale.algo.losses.PolicyLoss")
    for name in ("loss", "ratio", "clipped_low", "clipped_high", "clamped"):
        flags = name not in ("loss", "ratio")
        _check_tensor("loss", getattr(result, name), logprobs, f"`{name}`", flags=flags)
    if logprobs.requires_grad and torch.is_grad_enabled() and not result.loss.requires_grad:
        raise _wrong("loss", "`loss` without gradient", "one that logprobs have a gradient through")
    return result


def checked_weights(result: Any, log_ratio: Tensor, mask: Tensor) -> Tensor:
    """The result of a correction [T], without gradient, in the type of `log_ratio` and 1 where the mask is False.

    UserError for what is not a tensor of this shape, or not finite where the mask is True.
    """
    _check_tensor("correction", result, log_ratio)
    weights: Tensor = torch.where(mask, result.detach().to(log_ratio.dtype), 1.0)
    if not bool(weights.isfinite().all()):
        raise _wrong("correction", "a weight that is not finite", "finite ones")
    return weights


def _check_tensor(kind: HookKind, value: Any, like: Tensor, what: str = "a result", *, flags: bool = False) -> None:
    """Whether `value` is a tensor of numbers, or of flags, of the shape and on the device of `like`."""
    if not isinstance(value, Tensor):
        raise _wrong(kind, f"{what} of type {type(value).__name__}", "a tensor")
    if value.shape != like.shape:
        raise _wrong(kind, f"{what} of shape {tuple(value.shape)}", f"[T], here {tuple(like.shape)}")
    if not (value.dtype is torch.bool if flags else value.is_floating_point()):
        raise _wrong(kind, f"{what} of {value.dtype}", "torch.bool" if flags else "floating point")
    if value.device != like.device:
        raise _wrong(kind, f"{what} on {value.device}", f"one on {like.device}, where its arguments are")


def _wrong(kind: HookKind, got: str, expected: str) -> UserError:
    return UserError(f"{hook_key(kind)} returned {got}; it must return {expected}")

"""The contract test of a loss's gradient: it is there, finite, and the one that the values have."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from rlscale.algo.protocols import LossInputs
from rlscale.trainer.hook_contract.cases import Case
from rlscale.trainer.hook_contract.findings import Report, Status

_STEP = 1e-3
_TOLERANCE = 1e-3
_KINKS = 0.1
"""Share of tokens where the two may differ: a clip's kink may lie between the two points of a difference."""


def check_gradient(
    report: Report,
    loss: Callable[..., Tensor],
    inputs: Callable[[Case, torch.dtype], LossInputs],
    case: Case,
) -> None:
    """Gradient of a weighted sum of the tokens' losses; on ordinary cases also against finite differences.

    `loss` takes what `inputs` gives, and returns [T].
    """
    for dtype in (torch.float32, torch.float64):
        where = f"{case.name}, {str(dtype).removeprefix('torch.')}"
        gradient = report.call(f"backward, {where}", _gradient, loss, inputs(case, dtype))
        if gradient is None:
            report.add("gradient", "a gradient for the log-probs", False, f"none ({where})")
            return
        if case.ordinary:
            count = int((gradient != 0).sum())
            text = f"{count} of {int(case.mask.sum())} trainable tokens ({where})"
            report.add("gradient", "a gradient that is not 0 everywhere", count > 0, text)
        bad = int((~gradient.isfinite()).sum())
        report.add("finite gradient", "finite numbers", bad == 0, f"{bad} are not ({where})" if bad else "all are")
        if case.ordinary and dtype is torch.float64:
            _check_differences(report, loss, inputs(case, dtype), case, gradient)


def _weights(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """Unequal weights, 0 where the mask is False: without them a permuted gradient would go unnoticed."""
    return torch.where(mask, torch.linspace(0.5, 1.5, len(mask), dtype=dtype), 0.0)


def _gradient(loss: Callable[..., Tensor], inputs: LossInputs) -> Tensor | None:
    logprobs = inputs.logprobs
    total = (_weights(inputs.mask, logprobs.dtype) * loss(inputs)).sum()
    if not total.requires_grad:
        return None
    (gradient,) = torch.autograd.grad(total, logprobs, allow_unused=True)
    return gradient


def _check_differences(
    report: Report, loss: Callable[..., Tensor], inputs: LossInputs, case: Case, gradient: Tensor
) -> None:
    """Central differences in float64; what the loss detaches on purpose is held constant in them."""
    mask = inputs.mask
    trained = mask.nonzero().flatten().tolist()
    slopes = _slopes(report, loss, inputs, case, without_grad=True)
    off = _distance(gradient, slopes)[mask]
    if not bool((off <= _TOLERANCE).all()):
        # Inside an autograd.Function of the loss's own, too, gradients are off, and there nothing is cut off.
        slopes = _slopes(report, loss, inputs, case, without_grad=False)
        off = torch.minimum(off, _distance(gradient, slopes)[mask])
    wrong = (~(off <= _TOLERANCE)).nonzero().flatten()
    expected = f"the gradient of the values to {_TOLERANCE:g}, what is detached held constant"
    if not len(wrong):
        largest = float(off.max()) if len(off) else 0.0
        report.add("finite differences", expected, True, f"the same to {largest:.1e} at {len(trained)} tokens")
        return
    token = trained[int(wrong[0])]
    text = f"{len(wrong)} of {len(trained)} tokens differ; token {token} has {gradient[token]:.5g}, "
    text += f"finite differences give {slopes[token]:.5g} ({case.name})"
    few = len(wrong) <= _KINKS * len(trained)
    report.add("finite differences", expected, False, text, otherwise=Status.warned if few else Status.failed)


def _distance(gradient: Tensor, slopes: Tensor) -> Tensor:
    return (gradient - slopes).abs() / (1 + slopes.abs())


def _slopes(
    report: Report, loss: Callable[..., Tensor], inputs: LossInputs, case: Case, *, without_grad: bool
) -> Tensor:
    """Central differences [T] of the weighted sum, 0 where the mask is False; `without_grad`: see `_Detached`."""
    logprobs, mask = inputs.logprobs.detach(), inputs.mask
    weights = _weights(mask, torch.float64)
    frozen = _Detached(without_grad=without_grad)

    def total(at: Tensor) -> float:
        at = at.clone().requires_grad_().clone()
        with frozen.replayed():
            per_token = loss(replace(inputs, logprobs=at))
        return float((weights * per_token).sum().detach())

    report.call(f"finite differences, {case.name}", total, logprobs)
    slopes = torch.zeros_like(logprobs)
    for token in mask.nonzero().flatten().tolist():
        shift = torch.zeros_like(logprobs)
        shift[token] = _STEP
        above, below = (report.call(case.name, total, at) for at in (logprobs + shift, logprobs - shift))
        slopes[token] = (above - below) / (2 * _STEP)
    return slopes


_CUTS = (Tensor.detach, torch.detach, vars(torch._C.TensorBase)["data"].__get__)


class _Detached(TorchFunctionMode):
    """Remembers, in its first use, every tensor that is cut off from the gradient, and gives it again in later ones.

    Those are the results of `.detach()` and `.data` and, with `without_grad`, of whatever runs under `torch.no_grad()`.
    """

    def __init__(self, *, without_grad: bool) -> None:
        super().__init__()
        self._without_grad = without_grad
        self._kept: list[Any] = []
        self._next: int | None = None

    def replayed(self) -> _Detached:
        """For `with`: the first time records, the others replay."""
        self._next = 0 if self._kept else None
        return self

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        cuts = func in _CUTS or (self._without_grad and not torch.is_grad_enabled())
        if not cuts or not isinstance(result, Tensor):
            return result
        if self._next is None:
            self._kept.append(result.clone())
            return result
        self._next += 1
        kept = self._kept[self._next - 1] if self._next <= len(self._kept) else result
        return kept.clone() if kept.shape == result.shape else result

"""Contract tests of what runs in micro-batches on the ranks, in torch: policy losses and corrections."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rlscale.algo.losses import PolicyLoss
from rlscale.algo.protocols import Correction, Loss
from rlscale.trainer.hook_contract.cases import SEEDS, Case, cases, large, no_tokens, ragged, sums_over_segments
from rlscale.trainer.hook_contract.findings import Finding, Report, reported
from rlscale.trainer.hook_contract.gradient import check_gradient
from rlscale.trainer.hook_contract.results import (
    Arguments,
    called_twice,
    is_a,
    is_column,
    short,
    stop_where_unreadable,
    timed,
)

MakeArguments = Callable[[Case, torch.dtype], tuple[Any, ...]]
"""The positional arguments of a hook, the last of them `segment_sum`."""

_FLOATS = (torch.float32, torch.float64)


def check_loss(loss: Loss, seeds: Sequence[int] = SEEDS) -> list[Finding]:
    """One finding per check of a policy loss; see `rlscale.algo.protocols.Loss`."""

    def per_token(*arguments: Any) -> Tensor:
        return loss(*arguments).loss

    def forward_and_backward() -> None:
        arguments = loss_arguments(many, torch.float32)
        total = per_token(*arguments).sum()
        if total.requires_grad:
            torch.autograd.grad(total, arguments[0], allow_unused=True)

    with reported() as report:
        everything = [*(case for seed in seeds for case in cases(seed)), no_tokens()]
        for case in everything:
            for dtype in _FLOATS:
                _policy_loss(report, loss, case, dtype)
        stop_where_unreadable(report)
        for seed in seeds:
            _check_locality(report, per_token, loss_arguments, ragged(seed), seed)
        for case in everything:
            check_gradient(report, per_token, loss_arguments, case)
        many = large()
        timed(report, f"{many.tokens} tokens, forward and backward", forward_and_backward)
    return report.findings


def check_correction(correction: Correction, seeds: Sequence[int] = SEEDS) -> list[Finding]:
    """One finding per check of a correction; see `rlscale.algo.protocols.Correction`."""
    with reported() as report:
        for case in [*(case for seed in seeds for case in cases(seed)), no_tokens()]:
            for dtype in _FLOATS:
                _weights(report, correction, case, dtype)
        stop_where_unreadable(report)
        for seed in seeds:
            _check_locality(report, correction, correction_arguments, ragged(seed), seed)
        many = large()
        timed(report, f"{many.tokens} tokens", lambda: correction(*correction_arguments(many, torch.float32)))
    return report.findings


def loss_arguments(case: Case, dtype: torch.dtype) -> tuple[Any, ...]:
    """As the objective calls a loss: log-probs that are the result of something, and 0 where the mask is False."""
    mask = torch.from_numpy(case.mask.copy())
    names = ("logprobs", "old_logprobs", "advantages")
    logprobs, old, advantages = (torch.where(mask, torch.from_numpy(case.columns[n]), 0.0).to(dtype) for n in names)
    return logprobs.requires_grad_().clone(), old, advantages, mask, sums_over_segments(case)


def correction_arguments(case: Case, dtype: torch.dtype) -> tuple[Any, ...]:
    """As the objective calls a correction."""
    log_ratio = np.where(case.mask, case.columns["old_logprobs"] - case.columns["rollout_logprobs"], 0.0)
    return torch.from_numpy(log_ratio).to(dtype), torch.from_numpy(case.mask.copy()), sums_over_segments(case)


def _policy_loss(report: Report, loss: Loss, case: Case, dtype: torch.dtype) -> None:
    where = f"{case.name}, {short(dtype)}"
    result = called_twice(report, loss, lambda: Arguments(loss_arguments(case, dtype)), where)
    if not is_a(report, result, PolicyLoss, where):
        return
    dtypes = {"loss": dtype, "ratio": dtype, "clipped_low": torch.bool, "clipped_high": torch.bool}
    for name, kind in {**dtypes, "clamped": torch.bool}.items():
        value = getattr(result, name)
        if isinstance(value, Tensor):
            is_column(report, value, case.tokens, kind, where, f"{name} ")
        else:
            report.add("result", "tensors in it", False, f"{name} is a {type(value).__name__} ({where})")
    if isinstance(result.ratio, Tensor):
        free = not result.ratio.requires_grad
        text = f"ratio has {'none' if free else f'one ({where})'}"
        report.add("metrics", "no gradient but that of `loss`", free, text)


def _weights(report: Report, correction: Correction, case: Case, dtype: torch.dtype) -> None:
    where = f"{case.name}, {short(dtype)}"
    result = called_twice(report, correction, lambda: Arguments(correction_arguments(case, dtype)), where)
    if is_a(report, result, Tensor, where) and is_column(report, result, case.tokens, dtype, where):
        free = not result.requires_grad
        text = f"requires_grad={result.requires_grad}{'' if free else f' ({where})'}"
        report.add("no gradient", "weights without gradient", free, text)


def _check_locality(
    report: Report, hook: Callable[..., Tensor], arguments: MakeArguments, case: Case, seed: int
) -> None:
    """Whether a token's value depends on its own segment only, and on other tokens through `segment_sum` only."""
    draw = np.random.default_rng(seed)
    *given, segment_sum = arguments(case, torch.float64)
    calls: list[tuple[Tensor, Tensor]] = []

    def recorded(x: Tensor) -> Tensor:
        total = segment_sum(x)
        calls.append((x.detach().clone(), total.detach().clone()))
        return total

    def values(of: Case) -> Tensor:
        return report.call(of.name, hook, *arguments(of, torch.float64)).detach()

    whole = report.call(case.name, hook, *given, recorded).detach()
    rows = draw.permutation(len(case.lengths))
    for half in (rows[::2], rows[1::2]):
        few, place = case.rows(half)
        expected = "half of the segments alone have the same values"
        report.same("own segment only", expected, values(few), whole[place], case.name)
    expected = "without masked tokens the others have the same values"
    report.same("masked tokens", expected, values(case.part(case.mask)), whole[case.mask], case.name)
    share = draw.random(case.tokens) < 0.5
    for keep in (share, ~share):
        _check_share(report, hook, arguments, case, keep, whole, calls)


def _check_share(
    report: Report,
    hook: Callable[..., Tensor],
    arguments: MakeArguments,
    case: Case,
    keep: NDArray[np.bool_],
    whole: Tensor,
    calls: Sequence[tuple[Tensor, Tensor]],
) -> None:
    """As on a context-parallel rank: some tokens of every segment, and `segment_sum` gives the sums over all ranks.

    The sums are those of the call on the whole (`calls`), which is right as long as what goes into each is the same.
    """
    check, expected = "shares of a segment", "some tokens with segment_sum over all of the segment: the same values"
    number = 0

    def replayed(x: Tensor) -> Tensor:
        nonlocal number
        number += 1
        if number > len(calls):
            return x
        went_in, came_out = calls[number - 1]
        report.same(check, expected, x.detach(), went_in[keep], f"what goes into segment_sum, {case.name}")
        return came_out[keep]

    part = case.part(keep)
    *given, _ = arguments(part, torch.float64)
    got = report.call(part.name, hook, *given, replayed).detach()
    if number == len(calls):
        report.same(check, expected, got, whole[keep], case.name)
    else:
        text = f"{number} calls of segment_sum on some tokens, {len(calls)} on all (ranks would wait for each other)"
        report.add(check, expected, False, text)

"""Contract tests of what runs in micro-batches on the ranks, in torch: policy losses and corrections."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rlscale.algo.losses import PolicyLoss, SegmentSum
from rlscale.algo.protocols import Correction, Loss
from rlscale.trainer.hook_contract.cases import SEEDS, Case, cases, large, no_tokens, ragged, sums_over_segments
from rlscale.trainer.hook_contract.columns_read import columns_read
from rlscale.trainer.hook_contract.findings import Finding, Report, reported
from rlscale.trainer.hook_contract.gradient import check_gradient
from rlscale.trainer.hook_contract.inputs import Arguments, Given, correction_arguments, loss_arguments
from rlscale.trainer.hook_contract.results import (
    called_twice,
    is_a,
    is_column,
    short,
    stop_where_unreadable,
    timed,
)

MakeArguments = Callable[[Case, Given, torch.dtype, SegmentSum | None], Arguments]
"""Makes the inputs of a hook; without a `segment_sum` it is that of the case."""

_FLOATS = (torch.float32, torch.float64)


def check_loss(loss: Loss, seeds: Sequence[int] = SEEDS, *, reads: Collection[str] | None = None) -> list[Finding]:
    """One finding per check of a policy loss; see `rlscale.algo.protocols.Loss`.

    `reads`: the columns by models that it is given, as a run with algo.loss.reads gives them; by default all. The last
    finding is a note of those that it read.
    """
    given = Given() if reads is None else Given(reads)
    findings = _check_loss(loss, seeds, given)
    return [*findings, columns_read("loss", given, reads, findings)]


def _check_loss(loss: Loss, seeds: Sequence[int], given: Given) -> list[Finding]:
    """The checks."""

    def per_token(inputs: Any) -> Tensor:
        return loss(inputs).loss

    def forward_and_backward() -> None:
        inputs = loss_arguments(many, given, torch.float32).inputs
        total = per_token(inputs).sum()
        if total.requires_grad:
            torch.autograd.grad(total, inputs.logprobs, allow_unused=True)

    with reported() as report:
        everything = [*(case for seed in seeds for case in cases(seed)), no_tokens()]
        for case in everything:
            for dtype in _FLOATS:
                _policy_loss(report, loss, case, given, dtype)
        stop_where_unreadable(report)
        for seed in seeds:
            _check_locality(report, per_token, loss_arguments, given, ragged(seed), seed)
        for case in everything:
            check_gradient(report, per_token, lambda case, dtype: loss_arguments(case, given, dtype).inputs, case)
        many = large()
        timed(report, f"{many.tokens} tokens, forward and backward", forward_and_backward)
    return report.findings


def check_correction(correction: Correction, seeds: Sequence[int] = SEEDS) -> list[Finding]:
    """One finding per check of a correction; see `rlscale.algo.protocols.Correction`."""
    given = Given()
    with reported() as report:
        for case in [*(case for seed in seeds for case in cases(seed)), no_tokens()]:
            for dtype in _FLOATS:
                _weights(report, correction, case, given, dtype)
        stop_where_unreadable(report)
        for seed in seeds:
            _check_locality(report, correction, correction_arguments, given, ragged(seed), seed)
        many = large()
        inputs = correction_arguments(many, given, torch.float32).inputs
        timed(report, f"{many.tokens} tokens", lambda: correction(inputs))
    return report.findings


def _policy_loss(report: Report, loss: Loss, case: Case, given: Given, dtype: torch.dtype) -> None:
    where = f"{case.name}, {short(dtype)}"
    result = called_twice(report, loss, lambda: loss_arguments(case, given, dtype), where)
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


def _weights(report: Report, correction: Correction, case: Case, given: Given, dtype: torch.dtype) -> None:
    where = f"{case.name}, {short(dtype)}"
    result = called_twice(report, correction, lambda: correction_arguments(case, given, dtype), where)
    if is_a(report, result, Tensor, where) and is_column(report, result, case.tokens, dtype, where):
        free = not result.requires_grad
        text = f"requires_grad={result.requires_grad}{'' if free else f' ({where})'}"
        report.add("no gradient", "weights without gradient", free, text)


def _check_locality(
    report: Report, hook: Callable[..., Tensor], arguments: MakeArguments, given: Given, case: Case, seed: int
) -> None:
    """Whether a token's value depends on its own segment only, and on other tokens through `segment_sum` only."""
    draw = np.random.default_rng(seed)
    segment_sum = sums_over_segments(case)
    calls: list[tuple[Tensor, Tensor]] = []

    def recorded(x: Tensor) -> Tensor:
        total = segment_sum(x)
        calls.append((x.detach().clone(), total.detach().clone()))
        return total

    def values(of: Case) -> Tensor:
        return report.call(of.name, hook, arguments(of, given, torch.float64, None).inputs).detach()

    whole = report.call(case.name, hook, arguments(case, given, torch.float64, recorded).inputs).detach()
    rows = draw.permutation(len(case.lengths))
    for half in (rows[::2], rows[1::2]):
        few, place = case.rows(half)
        expected = "half of the segments alone have the same values"
        report.same("own segment only", expected, values(few), whole[place], case.name)
    expected = "without masked tokens the others have the same values"
    report.same("masked tokens", expected, values(case.part(case.mask)), whole[case.mask], case.name)
    share = draw.random(case.tokens) < 0.5

    def of_share(part: Case, sums: SegmentSum) -> Arguments:
        return arguments(part, given, torch.float64, sums)

    for keep in (share, ~share):
        _check_share(report, hook, of_share, case, keep, whole, calls)


def _check_share(
    report: Report,
    hook: Callable[..., Tensor],
    arguments: Callable[[Case, SegmentSum], Arguments],
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
    got = report.call(part.name, hook, arguments(part, replayed).inputs).detach()
    if number == len(calls):
        report.same(check, expected, got, whole[keep], case.name)
    else:
        text = f"{number} calls of segment_sum on some tokens, {len(calls)} on all (ranks would wait for each other)"
        report.add(check, expected, False, text)

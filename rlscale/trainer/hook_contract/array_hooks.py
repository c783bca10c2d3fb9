"""Contract tests of what sees the whole iteration at once, in NumPy: scores, advantages and reductions."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlscale.algo.protocols import Advantage, Reduction, Score
from rlscale.trainer.hook_contract.cases import SEEDS, Case, cases, large, ragged
from rlscale.trainer.hook_contract.columns_read import columns_read
from rlscale.trainer.hook_contract.findings import Finding, Report, reported
from rlscale.trainer.hook_contract.inputs import (
    Arguments,
    Given,
    advantage_arguments,
    reduction_arguments,
    score_arguments,
)
from rlscale.trainer.hook_contract.results import called_twice, is_a, is_column, stop_where_unreadable, timed


def check_score(score: Score, seeds: Sequence[int] = SEEDS) -> list[Finding]:
    """One finding per check of a score; see `rlscale.algo.protocols.Score`."""

    def scored(case: Case) -> Any:
        return report.call(case.name, score, score_arguments(case, given).inputs)

    given = Given()
    with reported() as report:
        for case in (case for seed in seeds for case in cases(seed)):
            _array(report, score, lambda case: score_arguments(case, given), case, len(case.rewards))
        stop_where_unreadable(report)
        for seed in seeds:
            case, draw = ragged(seed), np.random.default_rng(seed)
            whole = scored(case)
            order = draw.permutation(len(case.rewards))
            expected = "samples in another order have the same scores"
            report.same("order of samples", expected, scored(case.with_samples(order)), whole[order], case.name)
            ids, member = np.unique(case.groups, return_inverse=True)
            renamed = case.with_groups((draw.permutation(len(ids)) * 11 + 1)[member])
            expected = "groups under other ids have the same scores"
            report.same("group ids", expected, scored(renamed), whole, case.name)
        many = ragged(0, groups=1400)
        timed(report, f"{len(many.rewards)} samples", lambda: scored(many))
    return report.findings


def check_advantage(
    advantage: Advantage, seeds: Sequence[int] = SEEDS, *, reads: Collection[str] | None = None
) -> list[Finding]:
    """One finding per check of an advantage; see `rlscale.algo.protocols.Advantage`.

    `reads`: the columns by models that it is given, as a run with algo.advantage.reads gives them; by default all. The
    last finding is a note of those that it read.
    """
    given = Given() if reads is None else Given(reads)
    findings = _check_advantage(advantage, seeds, given)
    return [*findings, columns_read("advantage", given, reads, findings)]


def _check_advantage(advantage: Advantage, seeds: Sequence[int], given: Given) -> list[Finding]:
    """The checks."""

    def advantages(case: Case, noise: NDArray[np.float64] | float = 0.0) -> Any:
        return report.call(case.name, advantage, advantage_arguments(case, given, noise).inputs)

    with reported() as report:
        for case in (case for seed in seeds for case in cases(seed)):
            _tokens_array(report, advantage, lambda case: advantage_arguments(case, given), case)
        stop_where_unreadable(report)
        for seed in seeds:
            case, draw = ragged(seed), np.random.default_rng(seed)
            whole = advantages(case)
            moved, place = case.rows(case.shuffled_rows(draw))
            expected = "segments in another order have the same advantages"
            report.same("order of segments", expected, advantages(moved), whole[place], case.name)
            noise = np.where(case.mask, 0.0, draw.normal(size=case.tokens))
            expected = "what stands at masked tokens does not matter"
            report.same("masked tokens", expected, advantages(case, noise), whole, case.name)
        many = large()
        timed(report, f"{many.tokens} tokens", lambda: advantages(many))
    return report.findings


def check_reduction(reduction: Reduction, seeds: Sequence[int] = SEEDS) -> list[Finding]:
    """One finding per check of a reduction; see `rlscale.algo.protocols.Reduction`."""

    def weights(case: Case) -> Any:
        return report.call(case.name, reduction, reduction_arguments(case, given).inputs)

    given = Given()
    with reported() as report:
        for case in (case for seed in seeds for case in cases(seed)):
            result = _tokens_array(report, reduction, lambda case: reduction_arguments(case, given), case)
            if isinstance(result, np.ndarray) and case.mask.any():
                count = int(np.count_nonzero(result))
                text = f"{count} of {case.tokens} are not 0 ({case.name})"
                report.add("weights", "some weight is not 0", count > 0, text)
        stop_where_unreadable(report)
        for seed in seeds:
            case = ragged(seed)
            whole = weights(case)
            moved, place = case.rows(case.shuffled_rows(np.random.default_rng(seed)))
            expected = "segments in another order have the same weights"
            report.same("order of segments", expected, weights(moved), whole[place], case.name)
            for step in np.unique(case.step):
                alone, place = case.rows(np.flatnonzero(case.step == step))
                expected = "a step alone has the same weights as among others"
                report.same("steps", expected, weights(alone), whole[place], f"step {step} of {case.name}")
        many = large()
        timed(report, f"{many.tokens} tokens", lambda: weights(many))
    return report.findings


def _array(
    report: Report, hook: Callable[..., Any], arguments: Callable[[Case], Arguments], case: Case, count: int
) -> Any:
    """The hook's result, after the checks that every one of them has."""
    result = called_twice(report, hook, lambda: arguments(case), case.name)
    if is_a(report, result, np.ndarray, case.name):
        is_column(report, result, count, np.dtype(np.float64), case.name)
    return result


def _tokens_array(report: Report, hook: Callable[..., Any], arguments: Callable[[Case], Arguments], case: Case) -> Any:
    """The same for one with a value per token, which must be 0 where the mask is False."""
    result = _array(report, hook, arguments, case, case.tokens)
    if isinstance(result, np.ndarray) and result.shape == case.mask.shape:
        wrong = np.flatnonzero((result != 0) & ~case.mask)
        text = f"{result[wrong[0]]} at token {wrong[0]}, {len(wrong)} in all ({case.name})" if len(wrong) else "all are"
        report.add("zero where masked", "0 where the mask is False", not len(wrong), text)
    return result

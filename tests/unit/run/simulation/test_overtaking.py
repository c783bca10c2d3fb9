"""Trained length over the length of those whose turn it was, by iterations written down by hand."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from rlscale.run.simulation.overtaking import length_ratio
from rlscale.run.simulation.simulated_iteration import SimulatedIteration

BATCH = 4


def told(trained: list[list[int]], settled: list[int] | None = None) -> list[SimulatedIteration]:
    """An iteration for each batch of these lengths; `settled` where more have a fate than were trained."""
    ends = settled or np.cumsum([len(batch) for batch in trained]).tolist()
    return [
        SimulatedIteration(settled=end, samples=len(batch), tokens=sum(batch))
        for batch, end in zip(trained, ends, strict=True)
    ]


def test_what_is_trained_in_its_turn_has_the_ratio_one_without_error() -> None:
    assert length_ratio(told([[1, 2, 3, 9], [4, 4, 7, 5]]), 0, [1, 2, 3, 9, 4, 4, 7, 5, 100]) == (1.0, 0.0)


def test_the_ratio_is_off_by_what_is_overtaken_at_the_end_and_not_by_what_begins_behind_it() -> None:
    # The 9 is overtaken by a 5 in the first batch and trained in the second, where an 8 waits for the third.
    batches, begun = [[1, 2, 3, 5], [9, 4, 4, 7], [8, 6, 6, 6]], [1, 2, 3, 9, 5, 4, 4, 8, 7, 6, 6, 6, 50]
    ratio, error = length_ratio(told(batches), 0, begun)
    assert ratio == 1.0
    ratio, error = length_ratio(told(batches[:2]), 0, begun)
    assert ratio == pytest.approx(35 / 36)  # D is 0, 4, 1
    assert error == pytest.approx(ratio * np.sqrt(2) * np.std([0, 4, 1]) / 35)
    ratio, error = length_ratio(told(batches[:2]), 1, begun)
    assert ratio == pytest.approx(1 + (4 - 1) / 21)


def overtaking_by(debt: NDArray[np.int64], begun: NDArray[np.int64]) -> list[SimulatedIteration]:
    """Batches whose turn was that of `begun`, with that debt in tokens at the end of each."""
    tokens = begun.reshape(-1, BATCH).sum(1) - np.diff(debt, prepend=0)
    return [
        SimulatedIteration(settled=BATCH * (number + 1), samples=BATCH, tokens=int(count))
        for number, count in enumerate(tokens)
    ]


def test_the_error_is_what_the_ratio_of_other_moments_differs_by_and_goes_down_with_their_number() -> None:
    random = np.random.default_rng(0)
    begun = random.integers(50, 150, BATCH * 900)
    debt = np.zeros(900, np.int64)
    for now in range(2, 900):  # goes up and down every ten iterations or so, and forgets after twenty
        debt[now] = round(1.3 * debt[now - 1] - 0.7 * debt[now - 2] + 40 * random.standard_normal())
    iterations = overtaking_by(debt, begun)
    errors = []
    for window in (20, 80):
        found = [length_ratio(iterations[: end + window], end, begun.tolist()) for end in range(10, 800)]
        ratios, own = np.array(found).T
        assert ratios.mean() == pytest.approx(1, abs=2e-3)
        assert own.mean() == pytest.approx(ratios.std(), rel=0.2)
        errors.append(own.mean())
    assert errors[0] / errors[1] == pytest.approx(4, rel=0.1)


def test_what_is_thrown_away_is_a_bias_and_no_error() -> None:
    # Of every five the longest is thrown away: the others have a mean of 2.5, all of them 4.
    batches = [[1, 2, 3, 4]] * 6
    ratio, error = length_ratio(told(batches, [5 * (number + 1) for number in range(6)]), 2, [1, 2, 10, 3, 4] * 6)
    assert (ratio, error) == (pytest.approx(2.5 / 4), pytest.approx(0, abs=1e-12))


def test_groups_that_were_given_up_before_they_began_are_no_error() -> None:
    ratio, _ = length_ratio(told([[1, 2, 3, 4]] * 2, [4, 12]), 0, [1, 2, 3, 4] * 2)
    assert ratio == 1.0

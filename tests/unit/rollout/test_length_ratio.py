"""How long started samples are, of which some are not finished."""

from __future__ import annotations

import numpy as np
import pytest
from made_groups import group_of

from rlscale.rollout.attempt import Attempt
from rlscale.rollout.length_ratio import LengthRatio, mean_length


@pytest.mark.parametrize(
    ("lengths", "finished", "mean"),
    [
        ([], [], 0.0),
        ([2, 4, 6], [True, True, True], 4.0),
        # Survival 1 up to 2 and 2/3 from there on: 2 + (4 - 2) * 2/3. Without the unfinished one the mean would be 3.
        ([4, 2, 3], [True, True, False], 2 + 2 * 2 / 3),
        # Of the same length, what ended came before what goes on: half survives past 2, to 5.
        ([2, 2, 5, 5], [False, True, True, True], 2 + 3 * 0.75),
        # The longest counts as ended.
        ([1, 3], [True, False], 1 + 2 * 0.5),
    ],
)
def test_the_mean_comes_from_the_survival_curve(lengths: list[int], finished: list[bool], mean: float) -> None:
    assert mean_length(lengths, finished) == pytest.approx(mean)


def test_it_is_right_where_samples_are_cut_off_at_random() -> None:
    random = np.random.default_rng(0)
    true = random.geometric(1 / 100, 4000)
    seen = random.integers(1, 600, 4000)
    estimated = mean_length(np.minimum(true, seen).tolist(), (true <= seen).tolist())
    assert estimated == pytest.approx(100, rel=0.04)
    assert np.minimum(true, seen).mean() < 90  # what they are by now


def finished(tokens: int) -> Attempt:
    attempt = Attempt(lambda: 0)
    attempt.received(tokens)
    attempt.finished = True
    return attempt


def test_the_ratio_is_trained_over_started() -> None:
    lengths = LengthRatio(samples_per_batch=2)
    assert lengths.measure(0) == {}
    for tokens in (2, 4, 9):
        lengths.started(finished(tokens))
    lengths.trained([group_of(0, [0, 0], [0, 0, 0, 0])], 0)
    assert lengths.measure(0) == {"trained_length": 3.0, "started_length": 5.0, "length_ratio": pytest.approx(0.6)}


def test_an_attempt_counts_as_long_as_it_is_by_now() -> None:
    lengths = LengthRatio(samples_per_batch=2)
    growing = Attempt(lambda: 0)
    lengths.started(growing)
    lengths.started(finished(4))
    lengths.trained([group_of(0, [0] * 4)], 0)
    growing.received(6)
    assert lengths.measure(0)["started_length"] == pytest.approx(4 + (6 - 4) * 0.5)


def test_only_the_last_ten_batches_count() -> None:
    lengths = LengthRatio(samples_per_batch=1)
    for tokens in (1000, *([3] * 10)):
        lengths.started(finished(tokens))
        lengths.trained([group_of(0, [0] * tokens)], 0)
    assert lengths.measure(0)["length_ratio"] == 1.0
    assert lengths.measure(0)["trained_length"] == 3.0


def test_saved_are_the_lengths_of_what_is_finished() -> None:
    lengths = LengthRatio(samples_per_batch=2)
    lengths.started(finished(4))
    lengths.started(Attempt(lambda: 0))
    lengths.trained([group_of(0, [0, 0])], 0)
    other = LengthRatio(samples_per_batch=2)
    other.load_state_dict(lengths.state_dict())
    assert other.measure(0) == {"trained_length": 2.0, "started_length": 4.0, "length_ratio": 0.5}


def test_both_means_are_of_the_samples_whose_turn_it_was() -> None:
    """The third was overtaken by the fourth; what began after that has its turn later."""
    lengths = LengthRatio(samples_per_batch=1)
    for tokens in (2, 4, 30, 6, 500, 700):
        lengths.started(finished(tokens))
    lengths.trained([group_of(index, [0] * tokens) for index, tokens in enumerate((2, 4, 6))], held=3)
    expected = {"trained_length": 4.0, "started_length": 12.0, "length_ratio": 1 / 3}
    assert lengths.measure(held=3) == pytest.approx(expected)
    lengths.trained([group_of(2, [0] * 30)], held=2)
    assert lengths.measure(held=2)["length_ratio"] == pytest.approx(1.0)


def test_lengths_of_a_checkpoint_from_before_they_were_plain_numbers_count_the_same() -> None:
    measures = []
    for started in ([(4, True), (2, True)], [4, 2]):
        lengths = LengthRatio(2)
        lengths.load_state_dict({"started": started, "trained": [2]})
        measures.append(lengths.measure(0))
        assert lengths.state_dict() == {"started": [4, 2], "trained": [2]}
    assert measures[0] == measures[1] != {}

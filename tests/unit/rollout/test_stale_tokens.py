"""What of a batch the loss leaves out."""

from __future__ import annotations

import numpy as np
import pytest
from made_groups import group_of

from rlscale.config.schema.rollout_config import Stale
from rlscale.data.batches.fields import APPROXIMATE, STALE
from rlscale.rollout import stale_tokens
from rlscale.rollout.stale_tokens import fill_up, leave_out, over_the_bound, staleness_of

# For a trainer of version 9 with a bound of 2, tokens of version 6 are over it.
GROUPS = [group_of(0, [6, 6, 7, 9], [9, 9]), group_of(1, [7, 8], [6])]


def marked(group: int, sample: int) -> list[bool]:
    return GROUPS[group].samples[sample].columns[STALE].tolist()


def test_tokens_are_over_the_bound_one_by_one_and_prompts_never_are() -> None:
    sample = GROUPS[0].samples[0]
    assert over_the_bound(sample, 9, 2).tolist() == [False, False, True, True, False, False]
    assert not over_the_bound(sample, 8, 2).any()


def test_a_column_that_some_samples_bring_is_filled_up_for_the_others() -> None:
    first, second = groups = [group_of(0, [6, 7]), group_of(1, [8])]
    fill_up(groups, APPROXIMATE)
    assert APPROXIMATE not in first.samples[0].columns, "where none has it none needs it"
    first.samples[0].columns[APPROXIMATE] = np.array([False, False, True, True])
    fill_up(groups, APPROXIMATE)
    assert first.samples[0].columns[APPROXIMATE].tolist() == [False, False, True, True]
    assert second.samples[0].columns[APPROXIMATE].tolist() == [False] * len(second.samples[0].tokens)


def test_mask_leaves_out_the_tokens_over_the_bound() -> None:
    assert leave_out(GROUPS, 9, 2, Stale.mask) == [2, 1]
    assert marked(0, 0) == [False, False, True, True, False, False]
    assert marked(0, 1) == [False] * 4
    assert marked(1, 1) == [False, False, True]


def test_withhold_leaves_out_all_tokens_of_their_samples() -> None:
    assert leave_out(GROUPS, 9, 2, Stale.withhold) == [4, 1]
    assert marked(0, 0) == [False, False, True, True, True, True]
    assert marked(0, 1) == [False] * 4


@pytest.mark.parametrize("stale", Stale)
def test_without_anything_over_the_bound_there_is_no_column(stale: Stale) -> None:
    leave_out(GROUPS, 9, 2, Stale.mask)  # of a batch that was handed out before and was not trained on
    assert leave_out(GROUPS, 8, 2, stale) == [0, 0]
    assert not any(sample.columns for group in GROUPS for sample in group.samples)


def test_the_histogram_counts_generated_tokens_by_staleness() -> None:
    assert staleness_of(GROUPS, 9).tolist() == [3, 1, 2, 3]
    assert np.array_equal(staleness_of([], 9), [0])


def test_a_batch_is_not_looked_through_anew_for_each_of_its_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[int] = []
    monkeypatch.setattr(stale_tokens, "any", lambda counts: looked.append(len(counts)) or max(counts), raising=False)
    groups = [group_of(number, [9], [9]) for number in range(20)]
    assert leave_out(groups, 9, 2, Stale.mask) == [0] * 20
    assert looked == [20]

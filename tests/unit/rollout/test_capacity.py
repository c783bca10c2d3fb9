"""When another group may be started, in numbers worked out by hand: batches of 4 groups of 3 samples."""

from __future__ import annotations

import pytest

from rlscale.config.schema.rollout_config import RolloutConfig, Stale
from rlscale.rollout.capacity import Capacity, Progress

MANY = 1000


def capacity(bound: int, stale: Stale = Stale.mask, over_sampling: float = 1.0) -> Capacity:
    return Capacity.of(
        RolloutConfig(
            groups_per_iteration=4,
            samples_per_group=3,
            max_staleness=bound,
            stale=stale,
            over_sampling=over_sampling,
        )
    )


def progress(batches: int = 0, taken: bool = False, groups: int = 0, samples: int = 0, ready: int = 0) -> Progress:
    return Progress(batches, taken, groups, samples, ready)


@pytest.mark.parametrize("free", [0, MANY])
def test_on_policy_it_is_one_batch_per_version_whatever_is_free(free: int) -> None:
    rule = capacity(0)
    assert rule.startable(progress(), free) == 4
    assert rule.startable(progress(groups=2, samples=1, ready=1), free) == 1
    assert rule.startable(progress(batches=1, taken=True), free) == 0


def test_the_bound_says_how_many_batches_are_under_way_or_ready() -> None:
    rule = capacity(2)
    assert rule.startable(progress(), MANY) == 12
    assert rule.startable(progress(batches=1, taken=True), MANY) == 8
    assert rule.startable(progress(batches=1, taken=True, groups=6, samples=18, ready=2), MANY) == 0


def test_slots_of_finished_samples_are_free_unless_whole_groups_have_to_leave_in_time() -> None:
    now = progress(groups=6, samples=6, ready=1)  # six groups of which one sample each goes on: two groups' worth
    assert capacity(2).startable(now, MANY) == 12 - 2 - 1
    assert capacity(2, Stale.wait).startable(now, MANY) == 12 - 6 - 1


@pytest.mark.parametrize(("free", "groups"), [(-1, 0), (0, 0), (1, 1), (3, 1), (4, 2), (7, 3)])
def test_a_group_is_started_for_the_slot_of_its_first_sample(free: int, groups: int) -> None:
    assert capacity(2).startable(progress(), free) == groups


@pytest.mark.parametrize("stale", Stale)
def test_nothing_is_started_while_a_batch_is_ready(stale: Stale) -> None:
    assert capacity(2, stale).startable(progress(ready=3), MANY) == 9
    assert capacity(2, stale).startable(progress(ready=4), MANY) == 0


def test_over_sampling_grows_from_one_batch_after_the_first() -> None:
    rule = capacity(4, over_sampling=2.0)
    assert [rule.startable(progress(batches), MANY) for batches in range(6)] == [4, 5, 6, 7, 8, 8]
    # The first batch has been taken: the next one's size counts only when that is waited for.
    assert rule.startable(progress(1, taken=True), MANY) == 0
    assert rule.startable(progress(5, taken=True, groups=1, samples=3), MANY) == 3


@pytest.mark.parametrize(("bound", "over_sampling", "most"), [(0, 1.0, 0), (4, 1.0, 4), (4, 1.5, 1), (1, 3.0, 2)])
def test_batches_ahead_of_the_one_that_is_waited_for(bound: int, over_sampling: float, most: int) -> None:
    assert capacity(bound, over_sampling=over_sampling).most_ahead == most

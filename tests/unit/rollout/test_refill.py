"""What is set aside, what is replaced, and what fills a batch that stays short."""

from __future__ import annotations

import pickle
from itertools import permutations

import numpy as np
import pytest

from rlscale.config.errors import UserError
from rlscale.config.schema.algo_config import RefillConfig
from rlscale.data.buffer import Buffer
from rlscale.data.sample import Group, Prompt, Sample
from rlscale.rollout.filters import LengthBetween, varied_rewards
from rlscale.rollout.refill import Refill


def group(index: int, *rewards: float, version: int = 0) -> Group:
    prompt = Prompt(index, str(index), np.array([1], np.int32), None)
    samples = [Sample.from_response(prompt, i, np.array([2], np.int32), None, version) for i in range(len(rewards))]
    for sample, reward in zip(samples, rewards, strict=True):
        sample.reward = reward
    return Group(prompt, samples)


def equal(index: int, version: int = 0) -> Group:
    return group(index, 1.0, 1.0, version=version)


def indices(groups: list[Group]) -> list[int]:
    return [g.prompt.index for g in groups]


def admitted(refill: Refill, *groups: Group) -> list[int]:
    """The prompts of what is kept after each."""
    return indices([kept for kept in map(refill.admit, groups) if kept is not None])


@pytest.mark.parametrize(
    ("rewards", "expected"),
    [((0.0, 0.0, 0.0), True), ((1.0, 1.0), True), ((0.7,), True), ((1.0, 1.0, 0.0), False), ((0.0, -1e-9), False)],
)
def test_a_group_is_rejected_when_its_largest_reward_is_its_smallest(
    rewards: tuple[float, ...], expected: bool
) -> None:
    assert varied_rewards(group(0, *rewards)) is not expected


@pytest.mark.parametrize(("share", "most"), [(0.0, 0), (0.1, 1), (0.11, 2), (0.3, 3), (1.0, 10), (1.1, 11), (2.5, 25)])
def test_the_cap_is_a_share_of_the_batch_rounded_up(share: float, most: int) -> None:
    refill = Refill.of(RefillConfig(drop_equal=True, max_dropped=share), 10)
    assert len(admitted(refill, *map(equal, range(30)))) == 30 - most


def test_nothing_is_set_aside_when_refill_is_off() -> None:
    refill = Refill.of(RefillConfig(), 10)
    assert admitted(refill, equal(1), equal(0)) == [1, 0]
    refill.settle()
    assert refill.dropped == 0


def test_groups_with_a_signal_are_kept() -> None:
    refill = Refill(varied_rewards, 2)
    assert admitted(refill, group(1, 0.0, 1.0), equal(2), group(0, 0.0, 1.0)) == [1, 0]


def test_a_rejected_group_over_the_cap_lets_the_lowest_prompt_so_far_in() -> None:
    assert admitted(Refill(varied_rewards, 2), *map(equal, (7, 3, 5, 8))) == [3, 5]


@pytest.mark.parametrize("order", list(permutations((1, 4, 6, 9))))
def test_the_lowest_prompts_are_kept_in_whatever_order_they_are_finished(order: tuple[int, ...]) -> None:
    assert sorted(admitted(Refill(varied_rewards, 2), *map(equal, order))) == [1, 4]


def test_the_youngest_are_kept_because_their_deadline_is_the_latest() -> None:
    found = [equal(index, version) for index, version in ((0, 3), (2, 4), (1, 4))]
    assert admitted(Refill(varied_rewards, 1), *found) == [2, 1]


def test_what_was_replaced_is_dropped_and_counted_when_the_batch_has_left() -> None:
    refill = Refill(varied_rewards, 2)
    assert admitted(refill, equal(1), equal(2)) == []
    assert refill.dropped == 0
    refill.settle()
    assert refill.dropped == 2
    refill.settle()
    assert refill.dropped == 2
    assert admitted(refill, equal(3), equal(4), equal(5)) == [3]


def test_a_saved_refill_holds_the_same_again() -> None:
    refill = Refill(varied_rewards, 2)
    admitted(refill, equal(0), equal(1))
    refill.settle()
    admitted(refill, equal(7), equal(5))
    state = pickle.loads(pickle.dumps(refill.state_dict()))
    assert indices(state["groups"]) == [5, 7]
    other = Refill(varied_rewards, 2)
    other.load_state_dict(state)
    assert other.dropped == 2
    assert admitted(other, equal(6), equal(8)) == [5, 6]


@pytest.mark.parametrize("share", [0.0, 0.5, 2.0])
@pytest.mark.parametrize("bound", [0, 1, 3])
@pytest.mark.parametrize("seed", range(4))
def test_with_refill_no_batch_is_too_stale_short_or_too_dear(share: float, bound: int, seed: int) -> None:
    """The scheduling of the service, with two of three groups rejected, finished in any order."""
    random = np.random.default_rng(seed)
    n, started, iterations = 4, 0, 40
    most = int(share * n)
    buffer, refill = Buffer(), Refill(varied_rewards, most)
    in_flight: dict[int, int] = {}
    left: list[int] = []
    for version in range(iterations):
        for taken in (False, True):
            batch: list[Group] = []
            while True:
                while len(in_flight) + len(buffer) < (bound + 1 - taken) * n:
                    in_flight[started] = version
                    started += 1
                if taken:
                    break
                assert buffer.expire(version, bound) == []
                batch = buffer.take(n, version, bound, list(in_flight.values()))
                if batch:
                    refill.settle()
                    break
                index = int(random.choice(list(in_flight)))
                rewards = (1.0, 1.0) if random.random() < 2 / 3 else (0.0, 1.0)
                finished = group(index, *rewards, version=in_flight.pop(index))
                if (kept := refill.admit(finished)) is not None:
                    buffer.put(kept)
            if not taken:
                assert len(batch) == n
                assert min(g.min_version for g in batch) >= version - bound
                left += indices(batch)
    assert len(left) == len(set(left)) == iterations * n
    assert refill.dropped <= iterations * most
    assert started == len(left) + len(in_flight) + len(buffer) + refill.dropped + len(refill.state_dict()["groups"])


def test_the_run_stops_and_says_why_when_nothing_passes_for_ten_batches() -> None:
    refill = Refill.of(RefillConfig(drop_equal=True, max_dropped=0.5), 4)
    for index in range(10 * (4 + 2)):
        refill.admit(equal(index))
    with pytest.raises(UserError, match=r"rejected 61 groups in a row.*by varied_rewards \(prompt 60, rewards 1, 1"):
        refill.admit(equal(60))


def test_one_group_that_passes_begins_the_count_again_also_after_a_restart() -> None:
    refill = Refill.of(RefillConfig(drop_equal=True, max_dropped=0.5), 4)
    for index in range(60):
        refill.admit(equal(index))
    other = Refill.of(RefillConfig(drop_equal=True, max_dropped=0.5), 4)
    other.load_state_dict(pickle.loads(pickle.dumps(refill.state_dict())))
    refill.admit(group(60, 0.0, 1.0))
    refill.admit(equal(61))
    with pytest.raises(UserError, match="61 groups in a row"):
        other.admit(equal(61))


def test_what_was_replaced_is_told_with_the_reason() -> None:
    refill = Refill(LengthBetween(longest=0), 2, equal_too=True)
    refill.admit(equal(0))
    refill.admit(group(1, 0.0, 1.0))
    assert [(g.prompt.index, reason) for g, reason in refill.settle()] == [(0, "varied_rewards"), (1, "LengthBetween")]
    assert refill.settle() == []


@pytest.mark.parametrize(("bounds", "kept"), [((1, 1), True), ((0, 2), True), ((2, 3), False), ((0, 0.5), False)])
def test_groups_are_kept_by_their_mean_length(bounds: tuple[float, float], kept: bool) -> None:
    assert LengthBetween(*bounds)(equal(0)) is kept

"""Which finished groups a batch takes, and what is written down of them; batches of 2 groups, a bound of 1."""

from __future__ import annotations

import pickle
from dataclasses import dataclass

import pytest
from made_groups import group_of

from rlscale.config.schema.rollout_config import RolloutConfig, Stale
from rlscale.data.batches.fields import STALE
from rlscale.data.buffer import Buffer
from rlscale.data.sample import Group
from rlscale.rollout.batches import Batches
from rlscale.rollout.filters import varied_rewards
from rlscale.rollout.ledger import Ledger, tokens_of
from rlscale.rollout.refill import Refill


@dataclass
class Books:
    """Batches with their ledger, into which groups come as if they had just been generated."""

    stale: Stale = Stale.mask
    bound: int = 1
    refill: int = 0
    """Groups that may be set aside for a batch because their rewards are equal; 0 keeps them all."""

    def __post_init__(self) -> None:
        self.ledger = Ledger()
        rollout = RolloutConfig(groups_per_iteration=2, max_staleness=self.bound, stale=self.stale)
        refill = Refill(varied_rewards, self.refill) if self.refill else Refill(lambda group: True, 0)
        self.batches = Batches(rollout, Buffer(), refill, self.ledger)

    def put(self, *groups: Group) -> list[bool]:
        for group in groups:
            self.ledger.prompts.received += 1
            self.ledger.received(tokens_of(group))
        return [self.batches.put(group) for group in groups]

    def take(self, version: int, *in_flight: int) -> list[int]:
        return [group.prompt.index for group in self.batches.take(version, lambda: in_flight)]

    def check(self) -> None:
        """Both accounts balance, and what is held is what was counted."""
        groups, tokens = self.batches.held()
        assert (groups, tokens) == self.batches.counted()
        self.ledger.prompts.check("drawn", {"ready": groups})
        self.ledger.tokens.check("received", {"ready": tokens})


def old() -> Group:
    return group_of(0, [0, 0, 2], [2])


def young() -> list[Group]:
    return [group_of(index, [2, 2], [2]) for index in (1, 2)]


def test_mask_hands_out_what_is_over_the_bound_and_counts_its_tokens() -> None:
    books = Books(Stale.mask)
    books.put(*young(), old())
    assert books.batches.expire(2) == []
    assert books.take(2, 0, 0) == [0, 1]  # the oldest first, and nobody waits for what is in flight
    assert dict(books.ledger.tokens.fates) == {"trained": 4 + 3 - 2, "masked": 2}
    assert books.batches.measures() == {"staleness_tokens/0": 5.0, "staleness_tokens/1": 0.0, "staleness_tokens/2": 2.0}
    books.check()


def test_withhold_counts_all_tokens_of_the_sample() -> None:
    books = Books(Stale.withhold)
    books.put(*young(), old())
    assert books.take(2) == [0, 1]
    assert dict(books.ledger.tokens.fates) == {"trained": 4 + 3 - 3, "masked": 3}
    books.check()


def test_wait_holds_the_batch_until_what_is_in_flight_can_leave_in_time() -> None:
    books = Books(Stale.wait)
    books.put(*young())
    assert books.take(2, 1) == []  # that one would be two versions old in the next batch
    assert books.take(2, 2) == [1, 2]
    books.check()


def test_drop_throws_away_what_is_over_the_bound() -> None:
    books = Books(Stale.drop)
    books.put(*young(), old())
    assert books.batches.expire(2) == []  # nothing to generate again: another prompt takes its place
    assert books.ledger.prompts.fates["stale"] == 1
    assert books.ledger.tokens.fates["discarded_stale"] == 4
    assert books.take(2, 0) == [1, 2]  # it waits for nothing
    books.check()


def test_what_comes_too_late_although_it_was_waited_for_is_generated_again() -> None:
    books = Books(Stale.wait)
    books.put(old())
    assert [prompt.index for prompt in books.batches.expire(2)] == [0]
    assert books.ledger.tokens.fates["discarded_stale"] == 4
    books.ledger.prompts.check("drawn", {"under_way": 1})
    assert books.batches.held() == books.batches.counted() == (0, 0)


def test_on_policy_nothing_is_masked() -> None:
    books = Books(Stale.mask, bound=0)
    books.put(old(), *young())
    assert [prompt.index for prompt in books.batches.expire(2)] == [0]
    groups = books.batches.take(2, list)
    assert [group.prompt.index for group in groups] == [1, 2]
    assert not any(sample.columns for group in groups for sample in group.samples)


def test_filtered_groups_are_held_until_their_batch_leaves() -> None:
    books = Books(refill=1)
    good = [group_of(index, [0], [0]) for index in (1, 2)]
    for group in good:
        group.samples[0].reward = 1.0
    assert books.put(group_of(0, [0], [0]), *good) == [False, True, True]
    assert books.batches.ready == 2
    books.check()
    assert books.take(0) == [1, 2]
    assert books.ledger.prompts.fates["filtered_varied_rewards"] == 1
    books.check()


@pytest.mark.parametrize("trained", [True, False])
def test_a_batch_that_was_not_trained_on_is_saved_as_if_it_had_not_left(trained: bool) -> None:
    books = Books()
    books.put(*young(), old())
    taken = books.take(2)
    ledger = Ledger()
    ledger.load_state_dict(books.ledger.state_dict())
    state = pickle.loads(pickle.dumps(books.batches.state_dict(trained, ledger)))
    other = Books()
    other.ledger.load_state_dict(ledger.state_dict())
    other.batches.load_state_dict(state)
    other.check()
    assert other.batches.count == int(trained)
    if not trained:
        again = other.batches.take(2, list)
        assert [group.prompt.index for group in again] == taken
        assert STALE in again[0].samples[0].columns
        assert other.ledger.state_dict() == books.ledger.state_dict()

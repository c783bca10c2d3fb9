"""What is there of a group that is being generated, and what another process can go on from."""

from __future__ import annotations

import pickle

import numpy as np
from made_groups import prompt_of, sample_of

from rlscale.rollout.attempt import Attempt, Demand
from rlscale.rollout.engines.generation import Generation
from rlscale.rollout.ledger import Ledger
from rlscale.rollout.pending_group import PendingGroup, in_order


def part(tokens: int, version: int) -> Generation:
    made = np.full(tokens, 5, np.int32)
    return Generation(made, np.zeros(tokens, np.float32), "abort", np.full(tokens, version, np.int32))


def begun() -> tuple[PendingGroup, Demand, Ledger]:
    """Place 0 finished with 3 tokens of version 4, place 1 was cut off with 2 of version 5, place 2 waits."""
    demand, ledger = Demand(), Ledger()
    pending = PendingGroup(prompt_of(7))
    pending.expect(3, demand)
    for place, version in ((0, 4), (1, 5)):
        attempt = pending.attempt(place, 0, lambda version=version: version, ledger, demand)
        attempt.enter()
        attempt.received(3)
    pending.attempts[1].cut(part(2, 5), discarded=1)
    pending.finished(0, sample_of(7, 0, [4, 4, 4]))
    return pending, demand, ledger


def test_tokens_and_versions_are_those_of_finished_and_unfinished_samples() -> None:
    pending, demand, ledger = begun()
    assert (pending.tokens, pending.missing(3), pending.oldest_version(9)) == (5, 2, 4)
    assert demand.samples == 2  # one was cut off and wants to go on, one has not begun
    ledger.tokens.check("received", {"under_way": pending.tokens})


def test_a_group_that_no_request_was_made_for_is_as_new_as_the_weights() -> None:
    assert PendingGroup(prompt_of(0)).oldest_version(9) == 9


def test_a_saved_group_goes_on_with_what_there_is_of_it() -> None:
    pending, _, _ = begun()
    other = PendingGroup.of(pickle.loads(pickle.dumps(pending.state_dict())))
    assert (other.tokens, other.missing(3), other.oldest_version(9)) == (5, 2, 4)
    attempt = other.attempt(1, 0, lambda: 9, Ledger(), Demand())
    assert (attempt.tokens, attempt.oldest, len(attempt.parts)) == (2, 5, 1)
    assert other.tokens == 5
    again = PendingGroup.of(other.state_dict())
    assert again.tokens == 5


def test_another_seed_stays_another_seed_after_a_restart() -> None:
    pending = PendingGroup(prompt_of(0))
    pending.attempt(2, 3, lambda: 0, Ledger(), Demand())
    other = PendingGroup.of(pending.state_dict())
    assert other.attempt(2, 0, lambda: 0, Ledger(), Demand()).number == 3


def test_a_later_turn_is_not_saved() -> None:
    """An environment cannot be saved in the middle of an episode: it begins again."""
    pending, _, _ = begun()
    attempt = pending.attempts[1]
    attempt.turn_over()
    attempt.enter()
    attempt.received(4)
    attempt.cut(part(4, 6), discarded=0)
    assert attempt.tokens == 6
    assert PendingGroup.of(pending.state_dict()).tokens == 3


def test_who_leaves_wants_no_engine_any_more() -> None:
    pending, demand, _ = begun()
    pending.left(demand)
    assert demand.samples == 0


def test_demand_says_when_there_is_less_of_it() -> None:
    heard: list[int] = []
    demand = Demand(lambda: heard.append(demand.samples))
    attempts = [Attempt(lambda: 0, demand=demand) for _ in range(2)]
    attempts[0].turn_over()
    attempts[0].turn_over()
    assert (demand.samples, heard) == (1, [1])
    attempts[0].asks()
    attempts[0].enter()
    assert (demand.samples, heard) == (2, [1])


def test_what_failed_is_discarded() -> None:
    ledger = Ledger()
    attempt = Attempt(lambda: 0, ledger)
    attempt.enter()
    attempt.received(4)
    attempt.lost("failed_request")
    ledger.tokens.check("received", {})
    assert ledger.tokens.fates["discarded_failed_request"] == 4


def test_groups_are_in_the_order_of_their_prompts() -> None:
    assert [one.prompt.index for one in in_order(PendingGroup(prompt_of(i)) for i in (3, 0, 2))] == [0, 2, 3]

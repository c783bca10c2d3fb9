"""The buffer keeps the staleness bound by handing out groups in time."""

from __future__ import annotations

import numpy as np
import pytest

from rlscale.data.buffer import Buffer
from rlscale.data.sample import Group, Prompt, Sample


def group(index: int, version: int) -> Group:
    prompt = Prompt(index, str(index), np.array([1], np.int32), None)
    return Group(prompt, [Sample.from_response(prompt, 0, np.array([2], np.int32), None, version)])


def filled(*versions: int) -> Buffer:
    """Group i of version versions[i], put in backwards."""
    buffer = Buffer()
    for index in reversed(range(len(versions))):
        buffer.put(group(index, versions[index]))
    return buffer


def indices(groups: list[Group]) -> list[int]:
    return [g.prompt.index for g in groups]


def test_groups_leave_in_order_of_their_prompts_however_they_came() -> None:
    buffer = filled(0, 0, 0, 0)
    assert indices(buffer.take(2, version=0, max_staleness=1)) == [0, 1]
    assert indices(buffer.take(2, version=1, max_staleness=1)) == [2, 3]


def test_nothing_is_handed_out_before_there_is_a_whole_batch() -> None:
    assert filled(0, 0).take(3, version=0, max_staleness=0) == []


def test_looking_for_late_groups_costs_the_same_however_many_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is done whenever a group is finished: a walk over all of them would make a batch of n cost n squared."""
    buffer, looked_at = filled(*([3] * 200)), []
    monkeypatch.setattr(buffer, "_staleness", lambda index, version: looked_at.append(index) or version - 3)
    assert buffer.expire(version=4, max_staleness=1) == []
    assert not looked_at
    assert len(buffer.expire(version=5, max_staleness=1)) == 200
    assert buffer.expire(version=9, max_staleness=0) == []


def test_the_oldest_leave_first() -> None:
    assert indices(filled(2, 2, 1, 1).take(2, version=2, max_staleness=2)) == [2, 3]


def test_an_unfinished_group_at_its_deadline_is_waited_for() -> None:
    buffer = filled(1, 1)
    assert buffer.take(2, version=1, max_staleness=1, in_flight=[0]) == []
    assert indices(buffer.take(2, version=1, max_staleness=1, in_flight=[1])) == [0, 1]


def test_more_unfinished_groups_than_later_batches_can_take_are_waited_for() -> None:
    # Two batches of 2 may follow before version 0 is over the bound of 2; five groups do not fit into them.
    buffer = filled(0, 0)
    assert buffer.take(2, version=0, max_staleness=2, in_flight=[0] * 5) == []
    assert indices(buffer.take(2, version=0, max_staleness=2, in_flight=[0] * 4)) == [0, 1]


def test_groups_over_the_bound_are_removed_returned_and_counted() -> None:
    buffer = filled(0, 2, 3)
    assert indices(buffer.expire(version=3, max_staleness=1)) == [0]
    assert buffer.dropped == 1
    assert len(buffer) == 2


def test_the_same_prompt_twice_is_refused() -> None:
    buffer = filled(0)
    with pytest.raises(ValueError, match="prompt 0 is in the buffer already"):
        buffer.put(group(0, 0))


def test_a_saved_buffer_holds_the_same_groups_again() -> None:
    buffer = filled(0, 0, 0)
    buffer.expire(version=0, max_staleness=0)
    other = Buffer()
    other.load_state_dict(buffer.state_dict())
    assert indices(other.take(3, version=0, max_staleness=0)) == [0, 1, 2]


@pytest.mark.parametrize("bound", [0, 1, 3])
@pytest.mark.parametrize("seed", range(5))
def test_no_group_is_ever_too_stale_when_groups_are_started_as_the_service_starts_them(bound: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    n, started = 4, 0
    buffer, in_flight, left = Buffer(), {}, []
    for version in range(30):
        for taken in (False, True):
            while len(in_flight) + len(buffer) < (bound + 1 - taken) * n:
                in_flight[started] = version
                started += 1
            while not taken:
                assert buffer.expire(version, bound) == []
                groups = buffer.take(n, version, bound, list(in_flight.values()))
                left += indices(groups)
                if groups:
                    break
                index = int(random.choice(list(in_flight)))
                buffer.put(group(index, in_flight.pop(index)))
    assert len(left) == len(set(left)) == 30 * n

"""Who copies which part of the trainer's state, and whose copies make up whose state."""

from __future__ import annotations

from typing import Any

import pytest

from rlscale.config.composition.compose import compose
from rlscale.config.derived.same_state import copies_state, distinct_states
from rlscale.run.sides.state_copies import _Copy, _NothingFor, parts_for, shares_of

ONE, TWO, THREE = "one", "two", "three"


@pytest.mark.parametrize(
    ("keys", "machines", "shares"),
    [
        ("aaaa", [ONE] * 4, [(0, 4), (1, 4), (2, 4), (3, 4)]),
        ("abab", [ONE] * 4, [(0, 2), (0, 2), (1, 2), (1, 2)]),
        ("abc", [ONE] * 3, [(0, 1)] * 3),
        ("aaaa", [ONE, ONE, TWO, TWO], [(0, 2), (1, 2)] * 2),
        ("aaa", [ONE, TWO, THREE], [(0, 1), (0, 1), None]),
    ],
)
def test_ranks_of_a_machine_share_a_copy_and_two_machines_have_one(keys: str, machines: Any, shares: Any) -> None:
    assert shares_of(keys, machines) == shares


@pytest.mark.parametrize(
    ("keys", "machines", "gone", "parts"),
    [
        ("abab", [ONE] * 4, [], [[0, 2], [1, 3], [0, 2], [1, 3]]),
        ("aaaa", [ONE, ONE, TWO, TWO], [ONE], [[2, 3]] * 4),
        ("abab", [ONE, ONE, TWO, TWO], [TWO], [[0], [1], [0], [1]]),
        ("aab", [ONE, TWO, TWO], [TWO], [[0], [0], None]),
        ("aaa", [ONE, TWO, THREE], [ONE, TWO], [None] * 3),  # the third machine has none
    ],
)
def test_a_state_is_put_together_on_a_machine_that_is_there(keys: str, machines: Any, gone: Any, parts: Any) -> None:
    assert parts_for(keys, machines, gone) == parts


@pytest.mark.parametrize(
    ("given", "times", "copied"),
    [
        ([], [1], False),
        (["parallel.data=2"], [2], True),
        (["parallel.tensor=2", "parallel.data=3"], [3, 3], True),
        (["parallel.context=2", "parallel.pipeline=2"], [2, 2], True),
        (["parallel.data=2", "trainer.distributed_optimizer=true"], [1, 1], False),
        (["parallel.tensor=2", "trainer.distributed_optimizer=true"], [1, 1], False),
        (["parallel.data=2", "parallel.expert=2"], [1, 1], False),
        (["parallel.data=4", "parallel.expert=2"], [2, 2], True),
        (["parallel.tensor=2", "parallel.data=2", "parallel.expert=4"], [1] * 4, False),
        (["checkpoint.in_memory=true"], [1], True),
        (["parallel.data=2", "checkpoint.in_memory=false"], [2], False),
    ],
)
def test_a_copy_is_made_where_each_ranks_state_is_anothers_or_as_asked(given: Any, times: Any, copied: bool) -> None:
    config = compose(overrides=given)
    assert sorted(distinct_states(config).values()) == times
    assert copies_state(config) is copied


def test_fewer_ranks_take_the_copy_that_more_have_made_where_they_divide_the_model_alike() -> None:
    """Each takes what is its own from another one, so that they go on to draw at random differently."""
    copy = _Copy(3, [b"0", b"1", b"2", b"3"], ["p0", "p1", "p2", "p3"], [ONE, ONE, TWO, TWO], "abab")
    fewer = copy.given_to("ab", [TWO])
    assert [(one.own, one.parts) for one in fewer] == [(b"0", ["p0"]), (b"1", ["p1"])]
    assert [one.own for one in copy.given_to("abab", [])] == [b"0", b"1", b"2", b"3"]
    with pytest.raises(_NothingFor, match=r"^as the machine with the copy of rank 0's state is gone$"):
        copy.given_to("ab", [ONE, TWO])
    for others in ("a", "abc", "cd"):  # with a distributed optimizer each rank of so many has a part of its own
        with pytest.raises(_NothingFor, match=r"^as ranks of another layout have other parts of the trainer's state$"):
            copy.given_to(others, [])

"""A level that rises where most is solved, falls where little is, and stays otherwise."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlscale.config.errors import UserError
from rlscale.data.prompts.difficulty import Difficulty


def solve(difficulty: Difficulty, mean: float, prompts: int) -> list[int]:
    levels = []
    for _ in range(prompts):
        difficulty.observe(difficulty.level, [mean, mean])
        levels.append(difficulty.level)
    return levels


def test_it_rises_and_falls_by_one_after_every_window() -> None:
    difficulty = Difficulty(0, 9, start=5, window=3)
    assert solve(difficulty, 0.9, 7) == [5, 5, 6, 6, 6, 7, 7]
    # One was solved at level 7 already: (0.9 + 0 + 0) / 3 is not above the lower bound.
    assert solve(difficulty, 0.0, 6) == [7, 6, 6, 6, 5, 5]
    assert solve(difficulty, 0.5, 9) == [5] * 9


def test_between_the_bounds_the_oldest_is_forgotten() -> None:
    difficulty = Difficulty(0, 3, window=2, rise=0.8, fall=0.1)
    for reward in (0.2, 1.0):
        difficulty.observe(0, [reward])
    assert difficulty.level == 0  # 0.6
    difficulty.observe(0, [0.7])
    assert difficulty.level == 1  # 0.85


def test_it_stays_within_its_bounds() -> None:
    difficulty = Difficulty(2, 4, window=1)
    assert solve(difficulty, 1.0, 4) == [3, 4, 4, 4]
    assert solve(difficulty, 0.0, 4) == [3, 2, 2, 2]


def test_other_levels_and_failed_groups_say_nothing() -> None:
    difficulty = Difficulty(0, 3, start=1, window=1)
    difficulty.observe(0, [1.0])
    difficulty.observe(2, [0.0])
    difficulty.observe(1, [])
    assert difficulty.level == 1


def test_easier_prompts_come_from_the_levels_below_in_their_share() -> None:
    difficulty = Difficulty(0, 9, start=4)
    drawn = [difficulty.drawn(0.25, (0, index)) for index in range(4000)]
    assert drawn.count(4) / 4000 == pytest.approx(0.75, abs=0.03)
    assert [drawn.count(level) / 4000 for level in range(4)] == pytest.approx([0.0625] * 4, abs=0.02)
    assert drawn == [difficulty.drawn(0.25, (0, index)) for index in range(4000)]


@given(st.lists(st.floats(0, 1), max_size=40), st.integers(0, 40))
def test_a_saved_state_goes_on_alike(rewards: list[float], cut: int) -> None:
    whole, first, second = (Difficulty(0, 5, start=2, window=3) for _ in range(3))
    for reward in rewards:
        whole.observe(whole.level, [reward])
    for reward in rewards[:cut]:
        first.observe(first.level, [reward])
    second.load_state_dict(first.state_dict())
    for reward in rewards[cut:]:
        second.observe(second.level, [reward])
    assert second.state_dict() == whole.state_dict()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"start": 7}, "level=7: choose from 0 to 5"),
        ({"rise": 0.3, "fall": 0.3}, "fall=0.3 must be below rise=0.3"),
        ({"window": 0}, "window=0"),
    ],
)
def test_bounds_that_leave_no_room_are_refused(arguments: dict[str, float], said: str) -> None:
    with pytest.raises(UserError, match=said):
        Difficulty(0, 5, **arguments)  # type: ignore[arg-type]

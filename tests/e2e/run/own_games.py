"""A game of somebody's own, by the same arguments as those of TextArena."""

from __future__ import annotations

from collections.abc import Sequence

from rlscale.envs.problems.problem_maker import Problem


class Digits:
    """Say a digit, three times; the game is worth the share of turns in which there was one."""

    def highest_levels(self, names: Sequence[str]) -> dict[str, int | None]:
        """There is one game, without levels."""
        return {"digits": None}

    def make(self, name: str, level: int | None, seed: int) -> Problem:
        """What it says at first."""
        return Problem(f"{seed % 10}=", "")

    def score(self, name: str, level: int | None, seed: int, response: str) -> float:
        """Of a game of one turn."""
        return self.turn(name, seed, [response])[1]

    def turn(self, name: str, seed: int, actions: Sequence[str]) -> tuple[str, float, bool]:
        """What came of the last action."""
        done = len(actions) == 3
        worth = sum(any(map(str.isdigit, action)) for action in actions) / 3
        return f"{len(actions)}=", worth if done else 0.0, done

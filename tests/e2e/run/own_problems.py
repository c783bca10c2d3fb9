"""A maker of problems of somebody's own, by the same arguments as that of reasoning-gym."""

from __future__ import annotations

import random
import string
from collections.abc import Sequence

from rlscale.envs.problems.problem_maker import Problem


class Spelling:
    """Words to spell backward, longer by the level."""

    def __init__(self, exact: bool) -> None:
        self._exact = exact

    def highest_levels(self, names: Sequence[str]) -> dict[str, int | None]:
        """There is one kind, with two levels."""
        assert list(names) == ["spell_backward"]
        return {"spell_backward": 1}

    def make(self, name: str, level: int | None, seed: int) -> Problem:
        """A word of three letters, or of four at level 1."""
        word = "".join(random.Random(seed).choices(string.ascii_lowercase, k=3 + (level or 0)))
        return Problem(f"spell backward: {word}", word[::-1])

    def score(self, name: str, level: int | None, seed: int, response: str) -> float:
        """1 for the answer."""
        return float(response.strip() == self.make(name, level, seed).answer)

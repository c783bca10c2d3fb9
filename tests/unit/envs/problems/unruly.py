"""A maker of problems that is not well-behaved."""

from __future__ import annotations

import random
from collections.abc import Sequence

from rlscale.envs.problems.problem_maker import Problem


class Unruly:
    """A maker without levels, which draws from the global generator, and cannot make every problem."""

    def highest_levels(self, names: Sequence[str]) -> dict[str, int | None]:
        return dict.fromkeys(names or ("any", "worse"))

    def make(self, name: str, level: int | None, seed: int) -> Problem:
        if name == "worse":
            raise ValueError("no such luck")
        random.seed(seed)
        return Problem(f"{random.random()}", "")

    def score(self, name: str, level: int | None, seed: int, response: str) -> float:
        return 0.0

"""Sums whose numbers grow with the level."""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np

from rlscale.data.prompts.arithmetic import held_out
from rlscale.envs.problems.problem_maker import Problem

LIMITS = (10, 20, 30, 50, 70, 100, 150, 200, 300, 500, 700, 1000)
"""By level, what both numbers are below."""
_SUM = "sum"


class ArithmeticProblems:
    """Sums like `47+38=`, whose answer is written last digit first, as a small model learns it fastest.

    Odd seeds ask for the pairs that data=arithmetic holds out by default, even ones for the others.
    """

    def highest_levels(self, names: Sequence[str]) -> dict[str, int | None]:
        """There is one kind, `sum`."""
        if wrong := next((name for name in names if name != _SUM), None):
            raise ValueError(f"there is one kind of problem, {_SUM}, and not {wrong}")
        return {_SUM: len(LIMITS) - 1}

    def make(self, name: str, level: int | None, seed: int) -> Problem:
        """The sum of two numbers below the limit of the level, the highest for None."""
        limit, chance = LIMITS[-1 if level is None else level], random.Random(seed)
        while True:
            a, b = chance.randrange(limit), chance.randrange(limit)
            if held_out(np.array([a], np.uint64), np.array([b], np.uint64))[0] == bool(seed % 2):
                return Problem(f"{a}+{b}=", str(a + b)[::-1])

    def score(self, name: str, level: int | None, seed: int, response: str) -> float:
        """1 for the answer, and nothing else."""
        return float(response.strip() == self.make(name, level, seed).answer)

"""A maker of problems that is not well-behaved."""

from __future__ import annotations

import os
import random
from collections.abc import Sequence
from pathlib import Path

from rlscale.envs.problems.problem_maker import Problem


class Unruly:
    """A maker without levels, which draws from the global generator, and cannot make every problem."""

    def __init__(self, marker: str = "") -> None:
        """`marker`: a file without which making a problem ends the process, once."""
        self._marker = marker

    def highest_levels(self, names: Sequence[str]) -> dict[str, int | None]:
        return dict.fromkeys(names or ("any", "worse"))

    def make(self, name: str, level: int | None, seed: int) -> Problem:
        if name == "worse":
            raise ValueError("no such luck")
        if self._marker and not Path(self._marker).exists():
            Path(self._marker).touch()
            os._exit(9)
        if name == "order":
            return Problem("".join({f"{letter}{seed}" for letter in "abcdefghijkl"}), "")
        random.seed(seed)
        return Problem(f"{random.random()}", "")

    def score(self, name: str, level: int | None, seed: int, response: str) -> float:
        return 0.0

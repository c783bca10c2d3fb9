"""A maker of games of somebody's own, which can be brought down."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path

from rlscale.envs.problems.problem_maker import Problem


class Counting:
    """Say the next number, up to three; `marker`: a file that is written a line for each game that is opened again."""

    def __init__(self, marker: str, opens: bool = True) -> None:
        self._marker, self._opens = Path(marker), opens

    def highest_levels(self, names: Sequence[str]) -> dict[str, int | None]:
        return {"counting": None}

    def make(self, name: str, level: int | None, seed: int) -> Problem:
        if not self._opens:
            raise LookupError("no board")
        return Problem(f"Count from {seed}.", "")

    def score(self, name: str, level: int | None, seed: int, response: str) -> float:
        return 0.0

    def turn(self, name: str, seed: int, actions: Sequence[str]) -> tuple[str, float, bool]:
        last = actions[-1]
        if last == "raise":
            raise RuntimeError("confused")
        if last == "hang":
            time.sleep(30)
        while last == "wait" and not self._marker.with_suffix(".go").exists():
            time.sleep(0.01)
        if last == "die" or (last == "die once" and not self._marker.exists()):
            self._marker.touch()
            os._exit(3)
        right = last == str(seed + len(actions) - 1) or last == "die once"
        return ("yes" if right else "no"), float(right), not right or len(actions) == 3

"""A difficulty that follows the policy: it rises where most is solved, and falls where little is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from rlscale.config.errors import UserError


class Difficulty:
    """A level between two others, moved by how much of what was asked at it was solved.

    Whenever `window` prompts of the level are finished, the level
    rises by one where the mean reward is at least `rise`, and falls by one where it is at most `fall`. In between, the
    oldest is forgotten when the next one comes. Rewards are taken to lie between 0 and 1. What was asked at another
    level, as prompts in flight were when the level moved, says nothing of this one.
    """

    def __init__(
        self,
        lowest: int,
        highest: int,
        start: int | None = None,
        rise: float = 0.8,
        fall: float = 0.3,
        window: int = 16,
    ) -> None:
        """`start`: None for the lowest. UserError for bounds that leave no room."""
        start = lowest if start is None else start
        if not lowest <= start <= highest:
            raise UserError(f"level={start}: choose from {lowest} to {highest}")
        if not 0 <= fall < rise <= 1:
            raise UserError(f"fall={fall} must be below rise={rise}, both from 0 to 1")
        if window < 1:
            raise UserError(f"window={window}: must be at least 1")
        self.level = start
        self._lowest, self._highest = lowest, highest
        self._rise, self._fall, self._window = rise, fall, window
        self._solved: list[float] = []

    def observe(self, level: int, rewards: Sequence[float]) -> None:
        """The samples of a prompt that was asked at `level` got these rewards; none where its group failed."""
        if level != self.level or not rewards:
            return
        self._solved = [*self._solved, float(np.mean(rewards))][-self._window :]
        if len(self._solved) < self._window:
            return
        mean = float(np.mean(self._solved))
        moved = min(max(self.level + (mean >= self._rise) - (mean <= self._fall), self._lowest), self._highest)
        if moved != self.level:
            self.level, self._solved = moved, []

    def drawn(self, easier: float, seed: Sequence[int]) -> int:
        """The level of a prompt: this one, or in a share `easier` one of those below it, drawn by `seed`."""
        share, place = np.random.default_rng(list(seed)).random(2)
        if share >= easier or self.level == self._lowest:
            return self.level
        return self._lowest + int(place * (self.level - self._lowest))

    def state_dict(self) -> dict[str, Any]:
        """The level, and what was solved at it; plain values."""
        return {"level": self.level, "solved": list(self._solved)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on at the saved level, within the bounds that hold now."""
        self.level = min(max(int(state["level"]), self._lowest), self._highest)
        self._solved = list(map(float, state["solved"]))

"""A penalty for length, as a part of a weighted sum."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rlscale.config.errors import UserError
from rlscale.envs.overlong import overlong_penalty


class LengthPenalty:
    """0.0 for responses of up to `free` tokens, then falling in a straight line to -1.0 at `limit`, and beyond.

    `algo.overlong` does the same to the sum of all rewards and reads the limit from the run; this one is a part, and
    a metric, of its own.
    """

    def __init__(self, free: int, limit: int) -> None:
        if not 0 <= free < limit:
            raise UserError(f"free={free} and limit={limit} tokens: 0 <= free < limit must hold")
        self._free, self._limit = free, limit

    def __call__(self, response: str, label: Any, info: dict[str, Any], tokens: Sequence[int]) -> float:
        """From -1.0 to 0.0; needs no label."""
        return overlong_penalty(len(tokens), self._limit, self._limit - self._free)

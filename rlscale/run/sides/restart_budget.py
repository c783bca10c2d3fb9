"""How often what ends again and again is brought back: a bound for each, which a long run gets anew as it goes on."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable

_WITHIN_S = 3600.0
_STARTS = 2.0
"""How long a restart counts: an hour, and where starts take long twice the time that all of them may take. What ends
more often than its bound within it does not come up for good."""


class RestartBudget:
    """How many times each server of a fleet may still be started again."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._spent: dict[str, list[float]] = defaultdict(list)

    def left(self, name: str, most: int, start_s: float) -> int:
        """How often the server of this name may be started again now, of `most` times within an hour.

        `start_s`: how long a start may take.
        """
        within_s = max(_WITHIN_S, _STARTS * most * start_s)
        lately = [moment for moment in self._spent[name] if self._clock() - moment < within_s]
        self._spent[name] = lately
        return most - len(lately)

    def spend(self, name: str) -> None:
        """It is started again."""
        self._spent[name].append(self._clock())

    def give_back(self, name: str) -> None:
        """It was not, after all."""
        self._spent[name].pop()

"""When each engine had requests of a client's: the union of the times of those that were answered."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

Times = list[tuple[float, float]]
"""(start, end) in seconds since 1970, in order, without overlaps."""


class BusyTimes:
    """Remembers them by engine (host and port) until somebody takes them."""

    def __init__(self, now: Callable[[], float] = time.time) -> None:
        self._now = now
        self._times: dict[str, Times] = {}

    def answered(self, start: float, meta: Mapping[str, Any]) -> None:
        """A request that was sent at `start` has an answer now, with this `meta_info`; one that names no engine counts
        for none."""
        engine, end = str(meta.get("engine", "")), self._now()
        if not engine:
            return
        times = self._times.setdefault(engine, [])
        while times and times[-1][1] >= start:  # answers come in the order of their ends
            start = min(start, times.pop()[0])
        times.append((start, max(start, end)))

    def take(self) -> dict[str, Times]:
        """Those since the last call. A request that is not answered yet is in a later one, whole."""
        taken, self._times = self._times, {}
        return taken

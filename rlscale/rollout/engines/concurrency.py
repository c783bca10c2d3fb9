"""How many requests are in flight: as many as the engines' caches take, by what the engines report of their load.

Each engine has a window, and admission is limited to the sum of all windows; the router shares requests evenly. A
window that gets smaller cancels nothing: fewer are let in until it is kept.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping

from rlscale.rollout.engines.admission import Admission
from rlscale.rollout.engines.engine_loads import EngineLoads, LoadReport, pauses_s
from rlscale.rollout.engines.preemptions import Preemptions

GROWTH = 1.2
"""Most by which a window grows while as many requests as it holds are answered (a turnover)."""
GROW_BELOW, BACK_OFF_AT = 0.8, 0.95
"""Shares of the cache: a window grows up to the first, and shrinks from the second on."""
BACK_OFF = 0.8
"""What is left of a window that shrinks."""
BURST = 0.5
"""Share of a window that is let in at once after a sync, when the cache is empty and says nothing of what will come."""
FIRST = 16
"""Requests of an engine that has not reported yet."""


class Window:
    """The requests that may be in flight in one engine, from 1 to `most`. `longest`: tokens of the longest sequence."""

    def __init__(self, most: int, longest: int) -> None:
        self._most, self._longest = most, longest
        self._size = float(min(FIRST, most))
        self._burst = math.inf
        self._reported = False
        self._turnovers = 0.0  # since the last sync

    @property
    def size(self) -> int:
        """Requests that may be in flight now."""
        return max(1, min(int(self._size + 1e-9), int(min(self._burst, self._most))))

    def synced(self) -> None:
        """The engine has new weights and an empty cache: half of the window is let in, the rest report by report."""
        self._burst = max(1.0, math.ceil(self._size * BURST))
        self._turnovers = 0.0

    def observe(self, report: LoadReport, answered: float, preempted: bool = False) -> bool:
        """Follow a report, and say whether the window shrank. Since the one before, this engine `answered` so many
        requests, and `preempted` some.
        """
        if not self._reported:  # where every sequence was of the longest, so many would fit
            self._reported = True
            safe = GROW_BELOW * report.cache_tokens / self._longest
            self._size = float(max(1, min(safe, report.most_running, self._most)))
        turnover = min(answered / self._size, 1.0)
        self._turnovers += turnover
        in_flight = report.running + report.waiting
        if report.usage >= BACK_OFF_AT or preempted:
            shrinks = in_flight <= self._size  # those that are too many have left since it shrank last
            if shrinks:
                self._size = max(1.0, BACK_OFF * min(self._size, in_flight))
            self._burst = min(self._burst, self._size)
            return shrinks
        if self._burst < self._size:
            self._burst *= 2
            return False
        self._burst = math.inf
        if self._turnovers < 1 or report.waiting or in_flight < self.size:
            return False  # nothing is known yet of how the cache fills, or there is no use for more
        if report.usage < GROW_BELOW:
            room = GROW_BELOW / report.usage if report.usage else math.inf
            self._size = min(self._size * min(GROWTH**turnover, room), float(self._most), float(report.most_running))
        return False


class AdaptiveConcurrency:
    """Asks every engine for its load from time to time, and sets the limit of admission."""

    def __init__(
        self,
        admission: Admission,
        loads: EngineLoads,
        preemptions: Preemptions,
        engines: int,
        most: int,
        longest: int,
    ) -> None:
        """`engines`: how many there are at first; `most` requests per engine; `longest` sequence in tokens."""
        self._admission, self._loads, self._most, self._longest = admission, loads, most, longest
        self._preemptions = preemptions
        self._shrank_at = -math.inf
        self._windows: dict[str, Window] = {}
        self._answered = admission.left
        admission.limit = engines * min(FIRST, most)

    async def run(self) -> None:
        """Follow the reports until cancelled."""
        for pause in pauses_s():
            await asyncio.sleep(pause)
            await self.look()

    async def look(self) -> None:
        """Ask every engine once. One that does not answer keeps its window; one that has gone loses it."""
        reports = await self._loads.ask()
        if reports is None:
            return
        answered, self._answered = self._admission.left - self._answered, self._admission.left
        for url in self._windows.keys() - reports.keys():
            del self._windows[url]
        full = self._preempting(reports)
        shrank = False
        for url, report in reports.items():
            window = self._windows.setdefault(url, Window(self._most, self._longest))
            if report is not None:
                shrank |= window.observe(report, answered / len(reports), url in full)
        if shrank:
            self._shrank_at = asyncio.get_running_loop().time()
        self._limit()

    def _preempting(self, reports: Mapping[str, LoadReport | None]) -> set[str]:
        """The engines with the fullest caches, as many as requests that tell of a preemption.

        They tell when they are answered, which may be long after it. So those that were let in before a window shrank
        for it do not count again.
        """
        told = self._preemptions.take(self._shrank_at)
        usages = {url: report.usage for url, report in reports.items() if report is not None}
        return set(sorted(usages, key=usages.__getitem__, reverse=True)[:told])

    def synced(self) -> None:
        """The engines have new weights."""
        for window in self._windows.values():
            window.synced()
        self._limit()

    def _limit(self) -> None:
        if self._windows:
            self._admission.limit = sum(window.size for window in self._windows.values())

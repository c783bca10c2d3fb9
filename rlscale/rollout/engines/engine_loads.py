"""What engines report of their load: how many requests run and wait in each, and how full its cache is."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rlscale.rollout.engines.client import EngineClient, RequestFailed

EVERY_S = 1.0
"""Seconds between two reports."""
_PATIENCE_S = 5.0
"""How long an engine may take to report."""
_APART_S = 0.01
"""At least, times the number of engines, where reports are only written down."""


@dataclass(frozen=True)
class LoadReport:
    """What an engine says of its load, the sum over its data-parallel ranks; `usage` is that of the fullest cache."""

    running: int
    waiting: int
    usage: float
    retracted: int
    """Requests that had to leave the batch because the cache was full."""
    most_running: int
    """Requests that it runs at once at the most."""
    cache_tokens: int

    @staticmethod
    def of(answer: Mapping[str, Any]) -> LoadReport:
        """From the answer of `/v1/loads?include=core,queues`. ValueError if it is not one."""
        try:
            ranks = answer["loads"]
            return LoadReport(
                running=sum(int(rank["num_running_reqs"]) for rank in ranks),
                waiting=sum(int(rank["num_waiting_reqs"]) for rank in ranks),
                usage=max(float(rank["token_usage"]) for rank in ranks),
                retracted=sum(int((rank.get("queues") or {}).get("retracted", 0)) for rank in ranks),
                most_running=sum(int(rank["max_running_requests"]) for rank in ranks),
                cache_tokens=sum(int(rank["max_total_num_tokens"]) for rank in ranks),
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"not a report of an engine's load: {str(answer)[:200]}") from error


@dataclass(frozen=True)
class EngineLoad:
    """Means of an engine's reports over a while."""

    running: float
    waiting: float
    usage: float
    """Of its cache, from 0 to 1."""

    def plus(self, report: LoadReport) -> EngineLoad:
        """The sum of the two."""
        return EngineLoad(self.running + report.running, self.waiting + report.waiting, self.usage + report.usage)


class EngineLoads:
    """Asks every engine for its load, and remembers the means until they are taken."""

    def __init__(self, client: EngineClient) -> None:
        self._client = client
        self._sums: dict[str, tuple[int, EngineLoad]] = {}  # reports of an engine, and what they add up to

    async def run(self) -> None:
        """Ask again and again until cancelled."""
        engines = 0
        while True:
            await asyncio.sleep(max(EVERY_S, _APART_S * engines))
            engines = len(await self.ask() or ())

    async def ask(self) -> dict[str, LoadReport | None] | None:
        """The reports by the URLs of the engines, None of one that does not answer; None where no router does."""
        try:
            urls = await self._client.engines()
        except RequestFailed:
            return None  # a router that is being restarted
        reports = dict(zip(urls, await asyncio.gather(*map(self._report, urls)), strict=True))
        for url, report in reports.items():
            if report is not None:
                count, sums = self._sums.get(url, (0, EngineLoad(0.0, 0.0, 0.0)))
                self._sums[url] = count + 1, sums.plus(report)
        return reports

    def take(self) -> dict[str, EngineLoad]:
        """The means of each engine since the last call, by its URL."""
        sums, self._sums = self._sums, {}
        return {
            url: EngineLoad(total.running / count, total.waiting / count, total.usage / count)
            for url, (count, total) in sums.items()
        }

    async def _report(self, url: str) -> LoadReport | None:
        try:
            async with asyncio.timeout(_PATIENCE_S):  # one that hangs must not keep the others' reports
                return LoadReport.of(await self._client.load_at(url))
        except (RequestFailed, ValueError, TimeoutError):
            return None

"""What engines report of their load: how many requests run and wait in each, and how full its cache is."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from rlscale.rollout.engines.client import EngineClient
from rlscale.rollout.engines.generation import RequestFailed

_FIRST_S = 0.05
"""Seconds until the first report: an iteration of a tiny model may be over in a fraction of a second."""
_EVERY_S = 1.0
"""Seconds between two reports, once it has come to that."""
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
    most_running: int
    """Requests that it runs at once at the most."""
    cache_tokens: int

    @staticmethod
    def of(answer: Mapping[str, Any]) -> LoadReport:
        """From the answer of `/v1/loads?include=core`. ValueError if it is not one."""
        try:
            ranks = answer["loads"]
            return LoadReport(
                running=sum(int(rank["num_running_reqs"]) for rank in ranks),
                waiting=sum(int(rank["num_waiting_reqs"]) for rank in ranks),
                usage=max(float(rank["token_usage"]) for rank in ranks),
                most_running=sum(int(rank["max_running_requests"]) for rank in ranks),
                cache_tokens=sum(int(rank["max_total_num_tokens"]) for rank in ranks),
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"not a report of an engine's load: {str(answer)[:200]}") from error


@dataclass(frozen=True)
class EngineLoad:
    """Means of an engine's reports over a while, each weighted with the time since the one before."""

    running: float
    waiting: float
    usage: float
    """Of its cache, from 0 to 1."""

    def plus(self, report: LoadReport, seconds: float) -> EngineLoad:
        """The sum of the two, the report taken `seconds` times."""
        return EngineLoad(
            self.running + seconds * report.running,
            self.waiting + seconds * report.waiting,
            self.usage + seconds * report.usage,
        )


def pauses_s() -> Iterator[float]:
    """Seconds before each report, without end: short at first, each twice the one before, up to a second."""
    pause = _FIRST_S
    while True:
        yield pause
        pause = min(2 * pause, _EVERY_S)


class EngineLoads:
    """Asks every engine for its load, and remembers the means until they are taken."""

    def __init__(self, client: EngineClient) -> None:
        self._client = client
        self._sums: dict[str, tuple[float, EngineLoad]] = {}  # seconds of an engine's reports, and what they add up to
        self._asked: float | None = None

    async def run(self) -> None:
        """Ask again and again until cancelled."""
        engines = 0
        for pause in pauses_s():
            await asyncio.sleep(max(pause, _APART_S * engines))
            engines = len(await self.ask() or ())

    async def ask(self) -> dict[str, LoadReport | None] | None:
        """The reports by the URLs of the engines, None of one that does not answer; None where no router does."""
        try:
            urls = await self._client.engines()
        except RequestFailed:
            return None  # a router that is being restarted
        reports = dict(zip(urls, await asyncio.gather(*map(self._report, urls)), strict=True))
        now = asyncio.get_running_loop().time()
        passed = _FIRST_S if self._asked is None else max(now - self._asked, _FIRST_S)
        self._asked = now
        for url, report in reports.items():
            if report is not None:
                seconds, sums = self._sums.get(url, (0.0, EngineLoad(0.0, 0.0, 0.0)))
                self._sums[url] = seconds + passed, sums.plus(report, passed)
        return reports

    def take(self) -> dict[str, EngineLoad]:
        """The means of each engine since the last call, by its URL."""
        sums, self._sums = self._sums, {}
        return {
            url: EngineLoad(total.running / seconds, total.waiting / seconds, total.usage / seconds)
            for url, (seconds, total) in sums.items()
        }

    async def _report(self, url: str) -> LoadReport | None:
        try:
            async with asyncio.timeout(_PATIENCE_S):  # one that hangs must not keep the others' reports
                return LoadReport.of(await self._client.load_at(url))
        except (RequestFailed, ValueError, TimeoutError):
            return None


async def work_of(client: EngineClient, url: str) -> int | None:
    """Requests that run or wait in the engine at `url`, calls on their way counted too; None where it does not say."""
    try:
        async with asyncio.timeout(_PATIENCE_S):
            report = LoadReport.of(await client.load_at(url))
    except (RequestFailed, ValueError, TimeoutError):
        return None
    return report.running + report.waiting + client.calls_at(url)

"""Simulated engines in one process, each at an address of its own, and the router before them. No sockets.

`SimulatedFleet.connect` makes what rlscale.rollout.engines.connection calls a Connection, so that the rollout's own
client and service run on the fleet unchanged, in real or virtual time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from rlscale.config.schema.simulator_config import SimulatedEngineConfig
from rlscale.serve.simulator.response_lengths import ResponseLengths
from rlscale.serve.simulator.simulated_engine import Answer, SimulatedEngine
from rlscale.serve.simulator.started_responses import StartedResponses

ROUTER_URL = "http://router.simulated"


class SimulatedFleet:
    """`engines` of them, alike but for their faults."""

    def __init__(self, config: SimulatedEngineConfig, engines: int) -> None:
        """UserError if the file of measured lengths cannot be used."""
        self.lengths = ResponseLengths(config.lengths, config.seed)
        self.started = StartedResponses()
        self.engines = {
            f"http://engine-{number}.simulated": SimulatedEngine(config, number, self.lengths, self.started)
            for number in range(engines)
        }
        self._workers = list(self.engines)
        self._next = 0

    @property
    def urls(self) -> list[str]:
        """Addresses of the engines."""
        return list(self.engines)

    @property
    def workers(self) -> list[str]:
        """Addresses to which the router sends requests, in turn."""
        return list(self._workers)

    def route(self, urls: list[str]) -> None:
        """Let the router send requests to these engines only."""
        self._workers = list(urls)

    def connect(self, api_key: str | None, timeout_s: float, limit: int) -> FleetConnection:
        """A client's connection to all of its addresses."""
        return FleetConnection(self, timeout_s, limit)

    async def post(self, url: str, body: Any = None) -> Answer:
        """What an address answers: an engine's, or the router's."""
        place, path = _split(url)
        if place != ROUTER_URL:
            engine = self.engines.get(place)
            if engine is None:
                raise ConnectionRefusedError(f"nobody is at {place}")
            return await engine.call(path, body)
        if path != "/generate":
            return 404, {"detail": "a router passes on /generate alone"}
        for _ in range(len(self._workers)):
            engine = self.engines[self._workers[self._next % len(self._workers)]]
            self._next += 1
            if not engine.down:
                return await engine.call(path, body)
        return 503, "no engine is there"


class FleetConnection:
    """A client's way to a fleet: at most `limit` requests at once, each within `timeout_s` seconds."""

    def __init__(self, fleet: SimulatedFleet, timeout_s: float, limit: int) -> None:
        self._fleet, self._timeout_s = fleet, timeout_s
        self._places = asyncio.Semaphore(limit)

    async def post(self, url: str, body: Mapping[str, Any], headers: Mapping[str, str]) -> tuple[int, Any]:
        """Status and answer; see rlscale.rollout.engines.connection.Connection."""
        async with self._places, asyncio.timeout(self._timeout_s):
            status, answer = await self._fleet.post(url, body)
        return status, answer

    async def get(self, url: str) -> tuple[int, Any]:
        """The router's workers, or what an engine answers."""
        if url != ROUTER_URL + "/workers":
            async with asyncio.timeout(self._timeout_s):
                return await self._fleet.post(url)
        return 200, {"workers": [{"url": worker} for worker in self._fleet.workers]}

    async def close(self) -> None:
        """There is nothing to close."""


def _split(url: str) -> tuple[str, str]:
    """Address and path."""
    scheme, _, rest = url.partition("://")
    host, slash, path = rest.partition("/")
    return f"{scheme}://{host}", slash + path

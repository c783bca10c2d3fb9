"""Simulated engines in one process, each at an address of its own, and the router before them. No sockets.

`SimulatedFleet.connect` makes what rlscale.rollout.engines.connection calls a Connection, so that the rollout's own
client and service run on the fleet unchanged, in real or virtual time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from random import Random
from typing import Any

from rlscale.config.derived.needed_weights import fields_of
from rlscale.config.errors import UserError
from rlscale.config.schema.simulator_config import SimulatedEngineConfig
from rlscale.serve.simulator.deadlines import Deadlines
from rlscale.serve.simulator.response_lengths import ResponseLengths
from rlscale.serve.simulator.simulated_engine import Answer, SimulatedEngine
from rlscale.serve.simulator.started_responses import StartedResponses

ROUTER_URL = "http://router.simulated"
POLICIES = ("round_robin", "power_of_two")
"""SGLang's names: in turn; of two drawn at random, the one with fewer requests under way."""


class SimulatedFleet:
    """`engines` of them, alike but for their faults, behind a router that chooses by `policy`, one of POLICIES."""

    def __init__(self, config: SimulatedEngineConfig, engines: int, policy: str = "round_robin") -> None:
        """UserError if the file of measured lengths cannot be used, or for another policy."""
        if policy not in POLICIES:
            raise UserError(
                f"rollout.router.policy={policy}: the simulated router knows {' and '.join(POLICIES)}; choose one"
            )
        self.lengths = ResponseLengths(config.lengths, config.seed)
        self.started = StartedResponses()
        self.engines = {
            f"http://engine-{number}.simulated": SimulatedEngine(config, number, self.lengths, self.started)
            for number in range(engines)
        }
        self._workers = list(self.engines)
        self._policy, self._random, self._next = policy, Random(config.seed), 0
        self._under_way = dict.fromkeys(self.engines, 0)  # requests, as the router counts them

    @property
    def urls(self) -> list[str]:
        """Addresses of the engines."""
        return list(self.engines)

    @property
    def workers(self) -> list[str]:
        """Addresses to which the router sends requests."""
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
        if not self._workers:
            return 503, "no engine is there"
        worker = self._chosen(self._workers)
        if self.engines[worker].down:  # looked at only then: asking every engine costs more than all the rest
            alive = [other for other in self._workers if not self.engines[other].down]
            if not alive:
                return 503, "no engine is there"
            worker = self._chosen(alive)
        self._under_way[worker] += 1
        try:
            return await self.engines[worker].call(path, body)
        finally:
            self._under_way[worker] -= 1

    def _chosen(self, workers: list[str]) -> str:
        """Where the router sends the next request."""
        if self._policy == "power_of_two" and len(workers) > 1:
            return min(self._random.sample(workers, 2), key=self._under_way.__getitem__)
        self._next += 1
        return workers[(self._next - 1) % len(workers)]


class FleetConnection:
    """A client's way to a fleet: at most `limit` requests at once, each within `timeout_s` seconds."""

    def __init__(self, fleet: SimulatedFleet, timeout_s: float, limit: int) -> None:
        self._fleet, self._deadlines = fleet, Deadlines(timeout_s)
        self._places = asyncio.Semaphore(limit)

    async def post(self, url: str, body: Mapping[str, Any], headers: Mapping[str, str]) -> tuple[int, Any]:
        """Status and answer; see rlscale.rollout.engines.connection.Connection."""
        async with self._places:
            return await self._deadlines.within(self._fleet.post(url, {**body, **fields_of(headers)}))

    async def get(self, url: str) -> tuple[int, Any]:
        """The router's workers, or what an engine answers."""
        if url != ROUTER_URL + "/workers":
            return await self._deadlines.within(self._fleet.post(url))
        return 200, {"workers": [{"url": worker} for worker in self._fleet.workers]}

    async def close(self) -> None:
        """There is nothing to close."""


def _split(url: str) -> tuple[str, str]:
    """Address and path."""
    scheme, _, rest = url.partition("://")
    host, slash, path = rest.partition("/")
    return f"{scheme}://{host}", slash + path

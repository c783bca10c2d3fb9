"""The real router before two simulated engines: all turns of a trajectory go to one of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rlscale.config.derived.sticky_routing import STICKY
from rlscale.config.schema.simulator_config import LengthsConfig, SimulatedEngineConfig
from rlscale.rollout.engines.client import EngineClient
from rlscale.rollout.engines.sampling_params import SamplingParams
from rlscale.serve.router import RouterClient
from rlscale.serve.simulator.simulated_endpoint import SimulatedEndpoint
from rlscale.serve.simulator.simulated_engine import SimulatedEngine
from rlscale.serve.supervisor import Supervisor

KEY = "a key"
ENGINES = SimulatedEngineConfig(decode_s=0.002, lengths=LengthsConfig(median=6.0))
PROMPT = np.array([8, 11, 14, 7], np.int32)
TRAJECTORIES, TURNS = 12, 4


class Noting(SimulatedEngine):
    """Remembers the seeds of the requests that it got."""

    def __init__(self, number: int) -> None:
        super().__init__(ENGINES, number)
        self.seeds: list[int] = []

    async def call(self, path: str, body: Any = None) -> tuple[int, Any]:
        if path == "/generate":
            self.seeds.append(body["sampling_params"]["sampling_seed"])
        return await super().call(path, body)


@dataclass
class Fleet:
    """Two engines, and a client of the router before them."""

    engines: list[Noting]
    urls: list[str]
    router: RouterClient
    client: EngineClient

    async def play(self, trajectory: int, turns: int = TURNS) -> None:
        """Turns of one trajectory, whose number is the seed of all."""
        for _ in range(turns):
            await self.client.generate(PROMPT, SamplingParams(8), trajectory, trajectory=f"trajectory {trajectory}")

    def where(self, trajectory: int) -> list[int]:
        """How many of its requests each engine got."""
        return [engine.seeds.count(trajectory) for engine in self.engines]


@asynccontextmanager
async def fleet(folder: Path) -> AsyncIterator[Fleet]:
    supervisor = Supervisor(folder / "logs", folder / "scratch", KEY)
    try:
        url = await asyncio.to_thread(supervisor.start_router, {"policy": STICKY})
        engines = [Noting(0), Noting(1)]
        async with AsyncExitStack() as stack:
            endpoints = [await stack.enter_async_context(SimulatedEndpoint(engine, KEY)) for engine in engines]
            router = RouterClient(url, KEY)
            for endpoint in endpoints:
                await asyncio.to_thread(router.add, endpoint.url)
            client = EngineClient(url, KEY, timeout_s=20.0)
            stack.push_async_callback(client.close)
            yield Fleet(engines, [endpoint.url for endpoint in endpoints], router, client)
    finally:
        await asyncio.to_thread(supervisor.stop)


def test_the_turns_of_a_trajectory_go_to_one_engine_and_move_together_when_it_is_gone(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with fleet(tmp_path) as both:
            await asyncio.gather(*(both.play(number) for number in range(TRAJECTORIES)))
            places = [both.where(number) for number in range(TRAJECTORIES)]
            assert all(sorted(place) == [0, TURNS] for place in places)
            first = [place.index(TURNS) for place in places]
            assert TRAJECTORIES / 4 <= sum(first) <= 3 * TRAJECTORIES / 4, "both engines work"
            await asyncio.to_thread(both.router.remove, both.urls[0])
            moved = first.index(0)
            await both.play(moved)
            assert both.where(moved) == [TURNS, TURNS]

    asyncio.run(scenario())

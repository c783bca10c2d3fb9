"""A simulated engine behind HTTP: what it makes of what it cannot read. `tests/unit/test_fuzz.py` sends it anything."""

from __future__ import annotations

import asyncio
from typing import Any

import aiohttp
import pytest

from rlscale.config.derived.needed_weights import NEWEST_HEADER, OLDEST_HEADER
from rlscale.config.schema.simulator_config import SimulatedEngineConfig
from rlscale.platform.sglang_passes import passes_of
from rlscale.serve.progress_endpoint import PATH
from rlscale.serve.simulator.simulated_endpoint import SimulatedEndpoint
from rlscale.serve.simulator.simulated_engine import SimulatedEngine
from rlscale.serve.simulator.virtual_time import VirtualLoop

BODY: dict[str, Any] = {"input_ids": [1, 2, 3], "sampling_params": {"max_new_tokens": 2, "sampling_seed": 3}}


@pytest.mark.parametrize(
    ("fields", "headers", "status"),
    [
        ({}, {OLDEST_HEADER: "newest"}, 400),
        ({}, {NEWEST_HEADER: "1.5"}, 400),
        ({"oldest_weights": None}, {}, 400),
        ({"newest_weights": "1"}, {}, 400),
        ({"oldest_weights": True}, {}, 400),
        ({}, {OLDEST_HEADER: "7"}, 503),
        ({"newest_weights": 7}, {OLDEST_HEADER: "-1"}, 200),
    ],
)
def test_weights_that_are_no_number_are_a_bad_request(
    fields: dict[str, Any], headers: dict[str, str], status: int
) -> None:
    async def asked() -> int:
        engine = SimulatedEngine(SimulatedEngineConfig(decode_s=1e-6))
        async with (
            SimulatedEndpoint(engine) as endpoint,
            aiohttp.ClientSession() as http,
            http.post(endpoint.url + "/generate", json=BODY | fields, headers=headers) as answer,
        ):
            await answer.read()
            return answer.status

    assert asyncio.run(asyncio.wait_for(asked(), 20)) == status


def test_it_tells_how_it_gets_on_as_a_real_engine_does() -> None:
    """`ask_engine` reads both: tokens of running requests, and passes."""

    async def looks() -> list[tuple[dict[str, Any], int | None]]:
        engine = SimulatedEngine(SimulatedEngineConfig(decode_s=0.01))
        body = {"input_ids": [1, 2, 3], "sampling_params": {"max_new_tokens": 500, "ignore_eos": True}}
        asked = asyncio.create_task(engine.call("/generate", body))
        found = []
        for _ in range(3):
            await asyncio.sleep(0.05)
            found.append(((await engine.call(PATH))[1], passes_of((await engine.call("/server_info"))[1])))
        await engine.call("/pause_generation", {"mode": "in_place"})
        for _ in range(2):
            await asyncio.sleep(0.05)
            found.append(((await engine.call(PATH))[1], passes_of((await engine.call("/server_info"))[1])))
        asked.cancel()
        return found

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        told, passes = zip(*runner.run(looks()), strict=True)
    assert [one["requests"] for one in told] == [1] * 5
    assert [one["paused"] for one in told] == [False, False, False, True, True]
    assert [one["moves"] for one in told] == [0, 1, 2, 2, 2]
    assert passes[0] < passes[1] < passes[2] == passes[3] == passes[4]

"""A simulated engine behind HTTP: what it makes of what it cannot read. `tests/unit/test_fuzz.py` sends it anything."""

from __future__ import annotations

import asyncio
from typing import Any

import aiohttp
import pytest

from rlscale.config.derived.needed_weights import NEWEST_HEADER, OLDEST_HEADER
from rlscale.config.schema.simulator_config import SimulatedEngineConfig
from rlscale.serve.simulator.simulated_endpoint import SimulatedEndpoint
from rlscale.serve.simulator.simulated_engine import SimulatedEngine

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

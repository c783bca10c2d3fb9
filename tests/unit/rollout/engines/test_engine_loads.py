"""What engines report of their load, asked of simulated ones."""

from __future__ import annotations

import asyncio
from itertools import islice
from typing import Any

import numpy as np
import pytest

from rlscale.config.schema.simulator_config import LengthLaw, LengthsConfig, SimulatedEngineConfig
from rlscale.rollout.engines.client import EngineClient
from rlscale.rollout.engines.engine_loads import EngineLoad, EngineLoads, LoadReport, pauses_s
from rlscale.rollout.engines.sampling_params import SamplingParams
from rlscale.serve.simulator.simulated_fleet import ROUTER_URL, SimulatedFleet
from rlscale.serve.simulator.virtual_time import VirtualLoop


def test_a_report_that_is_none_says_so() -> None:
    with pytest.raises(ValueError, match="not a report of an engine's load"):
        LoadReport.of({"loads": [{"num_running_reqs": 1}]})


def test_each_engine_has_the_mean_of_its_reports_since_it_was_asked_for_last() -> None:
    """Three requests of 10 s, in turn to two engines of one slot: one of them has a request that waits."""
    lengths = LengthsConfig(law=LengthLaw.constant, median=10.0)
    config = SimulatedEngineConfig(
        decode_s=1.0, slots=1, cache_tokens=100, lengths=lengths, prefill_tokens_per_s=1e9, half_batch=1e9
    )

    async def main() -> Any:
        fleet = SimulatedFleet(config, 2)
        client = EngineClient(ROUTER_URL, None, 1000.0, 0, 1000, fleet.connect)
        loads = EngineLoads(client)
        follow = asyncio.create_task(loads.run())
        prompt = np.arange(4, 10, dtype=np.int32)
        asked = [asyncio.create_task(client.generate(prompt, SamplingParams(50), seed)) for seed in range(3)]
        await asyncio.sleep(9.5)
        busy = loads.take()
        next(iter(fleet.engines.values())).die()
        await asyncio.sleep(2)
        one_left = loads.take()
        follow.cancel()
        await asyncio.gather(*asked, return_exceptions=True)
        return busy, one_left, fleet.urls

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        busy, one_left, urls = runner.run(main())
    usage = pytest.approx((6 + np.arange(1, 10).mean()) / 100, abs=0.01)
    assert busy == {urls[0]: EngineLoad(1, 1, usage), urls[1]: EngineLoad(1, 0, usage)}
    assert list(one_left) == [urls[1]]


def test_the_first_report_comes_before_a_short_iteration_is_over_and_the_later_ones_every_second() -> None:
    assert list(islice(pauses_s(), 7)) == pytest.approx([0.05, 0.1, 0.2, 0.4, 0.8, 1.0, 1.0])

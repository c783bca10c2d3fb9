"""An engine that leaves: what it generates goes on in another one, with its tokens."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from rlscale.config.errors import UserError
from rlscale.config.schema.simulator_config import SimulatedEngineConfig
from rlscale.rollout.attempt import Attempt
from rlscale.rollout.engines import departure
from rlscale.rollout.engines.admission import Admission
from rlscale.rollout.engines.client import EngineClient
from rlscale.rollout.engines.continued import Continued, Cuts
from rlscale.rollout.engines.departure import empty
from rlscale.rollout.engines.generation import Generation
from rlscale.rollout.engines.sampling_params import SamplingParams
from rlscale.rollout.ledger import Ledger
from rlscale.serve.simulator.simulated_fleet import ROUTER_URL, SimulatedFleet

PROMPTS = [np.array([5, 9, number], np.int32) for number in range(4, 12)]
SAMPLING = SamplingParams(200, ignore_eos=True)
QUICK = SimulatedEngineConfig(decode_s=0.004)


async def generate(fleet: SimulatedFleet, leaves: bool) -> tuple[list[Generation], Ledger]:
    client, cuts, ledger = EngineClient(ROUTER_URL, connect=fleet.connect), Cuts(), Ledger()
    engines, admission = Continued(client, cuts), Admission(16)
    calls = [
        asyncio.create_task(engines.generate(prompt, SAMPLING, seed, admission, Attempt(lambda: -1, ledger)))
        for seed, prompt in enumerate(PROMPTS)
    ]
    if leaves:
        first, other = fleet.urls
        while not all(len(engine._scheduler.batch) for engine in fleet.engines.values()):
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.05)
        fleet.route([other])
        await asyncio.wait_for(empty(client, cuts, [first]), 10)
        assert len(fleet.engines[first]._scheduler.batch) == 0
        assert not all(call.done() for call in calls)
    found = list(await asyncio.gather(*calls))
    await client.close()
    return found, ledger


def test_requests_of_an_engine_that_leaves_go_on_in_the_other_with_the_tokens_that_they_had() -> None:
    calm, _ = asyncio.run(generate(SimulatedFleet(QUICK, 2), leaves=False))
    rough, ledger = asyncio.run(generate(SimulatedFleet(QUICK, 2), leaves=True))
    assert [one.tokens.tolist() for one in rough] == [one.tokens.tolist() for one in calm]
    assert ledger.tokens.received == 200 * len(PROMPTS), "nothing was sampled twice"


def test_an_engine_that_others_keep_asking_is_given_up_and_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    async def work_of(client: EngineClient, url: str) -> int:
        return 1

    async def leaves() -> None:
        fleet = SimulatedFleet(SimulatedEngineConfig(), 1)
        client = EngineClient(ROUTER_URL, connect=fleet.connect)
        try:
            with pytest.raises(UserError, match=r"still had requests after 0\.05 s: others ask it, too"):
                await asyncio.wait_for(empty(client, Cuts(), fleet.urls), 5)
            assert client._shared.aside == frozenset()
        finally:
            await client.close()

    monkeypatch.setattr(departure, "work_of", work_of)
    monkeypatch.setattr(departure, "_LONGEST_S", 0.05)
    asyncio.run(leaves())

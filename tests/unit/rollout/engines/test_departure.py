"""An engine that leaves, or answers no more: what it generates goes on in another one."""

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
from rlscale.rollout.engines.departure import empty, give_up
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


@pytest.mark.parametrize("short", [False, True])
def test_what_waits_for_an_engine_that_answers_no_more_is_asked_of_the_other_and_the_rest_goes_on(
    short: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Short requests share calls, which the client sends to engines itself."""
    monkeypatch.setattr(departure, "_ANSWERED_S", 0.3)
    sampling = SamplingParams(30 if short else 200, ignore_eos=True)
    engine = SimulatedEngineConfig(decode_s=0.03 if short else 0.004)

    async def generated(freezes: bool) -> tuple[list[list[int]], int, int]:
        fleet = SimulatedFleet(engine, 2)
        client, cuts, ledger = EngineClient(ROUTER_URL, connect=fleet.connect), Cuts(), Ledger()
        engines, admission = Continued(client, cuts), Admission(16)
        calls = [
            asyncio.create_task(engines.generate(prompt, sampling, seed, admission, Attempt(lambda: -1, ledger)))
            for seed, prompt in enumerate(PROMPTS)
        ]
        if freezes:
            first, other = fleet.urls
            while not all(len(engine._scheduler.batch) for engine in fleet.engines.values()):
                await asyncio.sleep(0.01)
            fleet.engines[first]._scheduler.paused = True
            fleet.route([other])
            await asyncio.wait_for(give_up(client, cuts, [first]), 3)
        found = list(await asyncio.wait_for(asyncio.gather(*calls), 20))
        await client.close()
        return [one.tokens.tolist() for one in found], client.retried, cuts.count

    calm, none, _ = asyncio.run(generated(freezes=False))
    rough, again, cut = asyncio.run(generated(freezes=True))
    assert rough == calm
    assert (none, again) == (0, len(PROMPTS) // 2), "half of them were with the other engine"
    assert 1 < cut < 10, "and were not cut off again and again meanwhile"

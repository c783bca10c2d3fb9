"""An engine that leaves, or answers no more: what it generates goes on in another one."""

from __future__ import annotations

import asyncio
import random
from typing import Any

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
from rlscale.rollout.engines.generation import Generation, RequestFailed
from rlscale.rollout.engines.sampling_params import SamplingParams
from rlscale.rollout.ledger import Ledger
from rlscale.serve.simulator.simulated_fleet import ROUTER_URL, SimulatedFleet

PROMPTS = [np.array([5, 9, number], np.int32) for number in range(4, 12)]
SAMPLING = SamplingParams(200, ignore_eos=True)
QUICK = SimulatedEngineConfig(decode_s=0.004)


class Asked:
    """The prompts under way in the engines of a fleet."""

    def __init__(self, fleet: SimulatedFleet, sampling: SamplingParams = SAMPLING) -> None:
        self.fleet, self.ledger, self.cuts = fleet, Ledger(), Cuts()
        self.client = EngineClient(ROUTER_URL, connect=fleet.connect)
        engines, admission = Continued(self.client, self.cuts), Admission(16)
        self.calls = [
            asyncio.create_task(engines.generate(prompt, sampling, seed, admission, Attempt(lambda: -1, self.ledger)))
            for seed, prompt in enumerate(PROMPTS)
        ]

    async def begun(self) -> None:
        """Every engine has some."""
        while not all(len(engine._scheduler.batch) for engine in self.fleet.engines.values()):
            await asyncio.sleep(0.01)

    async def freeze_one(self) -> str:
        """The URL of an engine that gives no tokens from now on, and that the router leaves out."""
        await self.begun()
        frozen, other = self.fleet.urls
        self.fleet.engines[frozen]._scheduler.pause("in_place")
        self.fleet.route([other])
        return frozen

    async def answered(self) -> list[Generation]:
        """What came of them."""
        found = list(await asyncio.wait_for(asyncio.gather(*self.calls), 20))
        await self.client.close()
        return found


async def generate(fleet: SimulatedFleet, leaves: bool) -> tuple[list[Generation], Ledger]:
    asked = Asked(fleet)
    if leaves:
        first, other = fleet.urls
        await asked.begun()
        await asyncio.sleep(0.05)
        fleet.route([other])
        await asyncio.wait_for(empty(asked.client, asked.cuts, [first]), 10)
        assert len(fleet.engines[first]._scheduler.batch) == 0
        assert not all(call.done() for call in asked.calls)
    return await asked.answered(), asked.ledger


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
    aborts: list[str] = []
    abort_at = EngineClient.abort_at

    async def counted(client: EngineClient, url: str) -> None:
        aborts.append(url)
        await abort_at(client, url)

    monkeypatch.setattr(EngineClient, "abort_at", counted)
    monkeypatch.setattr(departure, "_ANSWERED_S", 0.3)
    sampling = SamplingParams(30 if short else 200, ignore_eos=True)
    engine = SimulatedEngineConfig(decode_s=0.03 if short else 0.004)

    async def generated(freezes: bool) -> tuple[list[list[int]], int]:
        asked = Asked(SimulatedFleet(engine, 2), sampling)
        if freezes:
            await asyncio.wait_for(give_up(asked.client, asked.cuts, [await asked.freeze_one()]), 3)
        return [one.tokens.tolist() for one in await asked.answered()], asked.client.retried

    calm, none = asyncio.run(generated(freezes=False))
    rough, again = asyncio.run(generated(freezes=True))
    assert rough == calm
    assert (none, again) == (0, len(PROMPTS) // 2), "half of them were with the other engine"
    assert 1 < len(aborts) < 10, "and were not cut off again and again meanwhile"


class Far:
    """A connection that takes its time both ways."""

    def __init__(self, connection: Any) -> None:
        self._connection, self._random = connection, random.Random(1)

    async def post(self, url: str, body: Any, headers: Any) -> Any:
        await asyncio.sleep(self._random.uniform(0.005, 0.015))
        answer = await self._connection.post(url, body, headers)
        await asyncio.sleep(0.005)
        return answer

    async def get(self, url: str) -> Any:
        await asyncio.sleep(0.02)
        return await self._connection.get(url)

    async def close(self) -> None:
        await self._connection.close()


def test_no_request_that_begins_while_others_are_given_up_fails_as_it_is_cut_off_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(departure, "_ANSWERED_S", 1.0)

    async def asked_on(fleet: SimulatedFleet) -> int:
        client, cuts = EngineClient(ROUTER_URL, connect=lambda *of: Far(fleet.connect(*of))), Cuts()
        engines, admission, ledger = Continued(client, cuts), Admission(32), Ledger()
        ends = asyncio.Event()

        async def worker(number: int) -> None:
            lengths = random.Random(number)
            while not ends.is_set():
                sampling = SamplingParams(lengths.randint(33, 60), ignore_eos=True)
                prompt, attempt = np.array([5, 9, number], np.int32), Attempt(lambda: -1, ledger)
                await engines.generate(prompt, sampling, lengths.getrandbits(16), admission, attempt)

        workers = asyncio.gather(*map(worker, range(32)))
        await asyncio.sleep(0.6)
        frozen, *others = fleet.urls
        fleet.engines[frozen]._scheduler.pause("in_place")
        fleet.route(others)
        await give_up(client, cuts, [frozen])
        ends.set()
        await asyncio.wait_for(workers, 20)
        await client.close()
        return client.retried

    assert asyncio.run(asked_on(SimulatedFleet(SimulatedEngineConfig(decode_s=0.01), 3))) > 0


def test_a_router_that_is_started_again_meanwhile_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(departure, "_ANSWERED_S", 2.0)

    async def main() -> int:
        asked, tries = Asked(SimulatedFleet(QUICK, 2)), 0
        there = asked.client.engines

        async def asks(ready: bool = False) -> list[str]:
            nonlocal tries
            tries += 1
            if tries < 3:
                raise RequestFailed("connection refused")
            return await there(ready)

        frozen = await asked.freeze_one()
        monkeypatch.setattr(asked.client, "engines", asks)
        await give_up(asked.client, asked.cuts, [frozen])
        await asked.answered()
        return asked.client.retried

    assert asyncio.run(main()) == len(PROMPTS) // 2, "those of the engine that got on were answered"

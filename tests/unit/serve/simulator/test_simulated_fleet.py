"""Engines without a model under the rollout's own client, in virtual time: faults, preemption, routing.

What they have in common with a real server is in tests/e2e/rollout/test_contract.py and test_protocol_contract.py.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from rlscale.config.derived.needed_weights import NeededWeights
from rlscale.config.errors import UserError
from rlscale.config.schema.simulator_config import FaultsConfig, LengthLaw, LengthsConfig, SimulatedEngineConfig
from rlscale.rollout.engines.client import EngineClient
from rlscale.rollout.engines.generation import RequestFailed
from rlscale.rollout.engines.sampling_params import SamplingParams
from rlscale.serve.simulator.simulated_fleet import POLICIES, ROUTER_URL, SimulatedFleet
from rlscale.serve.simulator.virtual_time import VirtualLoop

PROMPT = np.arange(4, 12, dtype=np.int32)
CONFIG = SimulatedEngineConfig(
    decode_s=1.0, half_batch=1e9, lengths=LengthsConfig(law=LengthLaw.constant, median=10.0), prefill_tokens_per_s=1e9
)
Scenario = Callable[[SimulatedFleet, EngineClient], Awaitable[Any]]


def simulated(scenario: Scenario, engines: int = 1, retries: int = 3, timeout_s: float = 100.0, **changed: Any) -> Any:
    async def main() -> Any:
        fleet = SimulatedFleet(replace(CONFIG, **changed), engines)
        client = EngineClient(ROUTER_URL, None, timeout_s, retries, 1000, fleet.connect)
        return await scenario(fleet, client)

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(main())


def now() -> float:
    return asyncio.get_running_loop().time()


def ask(client: EngineClient, seed: int, tokens: int = 100) -> Awaitable[Any]:
    return client.generate(PROMPT, SamplingParams(tokens), seed)


def test_the_router_sends_requests_to_the_engines_in_turn() -> None:
    async def scenario(fleet: SimulatedFleet, client: EngineClient) -> list[int]:
        requests = [asyncio.ensure_future(ask(client, seed)) for seed in range(8)]
        await asyncio.sleep(1)
        counts = [engine.requests for engine in fleet.engines.values()]
        await asyncio.gather(*requests)
        return counts

    assert simulated(scenario, engines=4) == [2, 2, 2, 2]


def test_or_to_the_one_of_two_that_has_less_to_do() -> None:
    async def most(policy: str) -> int:
        """Requests at the busiest of eight engines, when short ones have been answered and long ones have not."""
        fleet = SimulatedFleet(replace(CONFIG, slots=1000), 8, policy)
        client = EngineClient(ROUTER_URL, None, 1000.0, 0, 1000, fleet.connect)
        requests = []
        for seed in range(160):
            requests.append(asyncio.ensure_future(ask(client, seed, tokens=2 if seed % 8 else 10)))
            await asyncio.sleep(0.1)
        under_way = max(len(engine.batch.slots()) for engine in fleet.engines.values())
        await asyncio.gather(*requests)
        return under_way

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        in_turn, of_two = (runner.run(most(policy)) for policy in POLICIES)
    assert in_turn > 10  # every eighth, which is a long one, comes to the same engine
    assert of_two < 6


def test_another_policy_is_refused() -> None:
    with pytest.raises(
        UserError, match=r"rollout.router.policy=cache_aware: the simulated router knows round_robin and"
    ):
        SimulatedFleet(CONFIG, 2, "cache_aware")


def test_requests_over_the_slots_wait_for_their_turn() -> None:
    async def scenario(fleet: SimulatedFleet, client: EngineClient) -> list[float]:
        ends = []

        async def one(seed: int) -> None:
            await ask(client, seed)
            ends.append(round(now()))

        await asyncio.gather(*map(one, range(5)))
        return ends

    assert simulated(scenario, slots=2) == [10, 10, 20, 20, 30]


def test_a_full_cache_preempts_and_every_response_is_whole_all_the_same() -> None:
    async def scenario(fleet: SimulatedFleet, client: EngineClient) -> tuple[list[Any], int, float]:
        alone = [await ask(client, seed) for seed in range(4)]
        began = now()
        together = await asyncio.gather(*[ask(client, seed) for seed in range(4)])
        same = [a.tokens.tolist() == b.tokens.tolist() for a, b in zip(alone, together, strict=True)]
        return same, next(iter(fleet.engines.values())).preemptions, now() - began

    lengths = LengthsConfig(law=LengthLaw.constant, median=80.0)
    same, preemptions, seconds = simulated(scenario, cache_tokens=200, lengths=lengths)
    assert same == [True] * 4
    assert preemptions > 0
    assert seconds > 120  # all at once would take 80


def test_a_client_that_goes_away_takes_its_request_with_it() -> None:
    async def scenario(fleet: SimulatedFleet, client: EngineClient) -> list[int]:
        request = asyncio.ensure_future(ask(client, 1))
        await asyncio.sleep(3)
        (engine,) = fleet.engines.values()
        before = engine.requests
        request.cancel()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        return [before, engine.requests, engine.tokens]

    assert simulated(scenario) == [1, 0, 3]


@pytest.mark.parametrize("fault", ["lost", "duplicated", "crashed"])
def test_a_request_that_breaks_now_and_then_is_sent_again(fault: str) -> None:
    async def scenario(fleet: SimulatedFleet, client: EngineClient) -> tuple[Any, int]:
        answers = await asyncio.gather(*[ask(client, seed) for seed in range(20)])
        return answers, client.retried

    faults = FaultsConfig(**{fault: 0.2}, restart_s=5.0)
    answers, retried = simulated(scenario, engines=4, retries=50, faults=faults)
    assert {len(answer.tokens) for answer in answers} == {10}
    assert retried > 0


def test_a_stalled_request_is_given_up_after_its_time() -> None:
    async def scenario(fleet: SimulatedFleet, client: EngineClient) -> float:
        with pytest.raises(RequestFailed, match="TimeoutError, sent 2 times"):
            await ask(client, 1)
        return now()

    waited_s = simulated(scenario, retries=1, faults=FaultsConfig(stalled=1.0))
    assert waited_s == pytest.approx(200 + 0.25 * random.Random(0).uniform(0.5, 1.0))  # the first wait between tries


def test_rubbish_has_a_log_prob_that_is_not_a_number() -> None:
    answer = simulated(lambda fleet, client: ask(client, 1), faults=FaultsConfig(rubbish=1.0))
    assert np.isnan(answer.logprobs).sum() == 1


def test_faults_befall_the_shares_of_requests_that_they_should() -> None:
    async def scenario(fleet: SimulatedFleet, client: EngineClient) -> Counter[str]:
        found: Counter[str] = Counter()
        for seed in range(400):
            try:
                answer = await ask(client, seed)
                found["rubbish" if np.isnan(answer.logprobs).any() else "fine"] += 1
            except RequestFailed:
                found["lost"] += 1
        return found

    found = simulated(scenario, retries=0, faults=FaultsConfig(lost=0.3, rubbish=0.2))
    assert found["lost"] == pytest.approx(120, abs=25)
    assert found["rubbish"] == pytest.approx(80, abs=22)


def test_an_engine_that_died_comes_back_with_the_weights_of_its_folder() -> None:
    async def scenario(fleet: SimulatedFleet, client: EngineClient) -> list[Any]:
        (engine,) = fleet.engines.values()
        (url,) = fleet.urls
        body = {"serialized_named_tensors": ["a"], "weight_version": "7"}
        await fleet.post(f"{url}/update_weights_from_tensor", body)
        versions = [set((await ask(client, 1)).versions.tolist())]
        engine.die()
        with pytest.raises(ConnectionRefusedError):
            await fleet.post(f"{url}/health")
        versions.append(set((await ask(client, 1)).versions.tolist()))  # the client waits until it is back
        return [versions, engine.restarts, engine.tokens, now() >= 10 + 30]

    assert simulated(scenario) == [[{7}, {-1}], 1, 20, True]


def test_the_same_weights_give_the_same_tokens_whatever_their_number() -> None:
    async def scenario(fleet: SimulatedFleet, client: EngineClient) -> list[list[int]]:
        found = []
        for version, weights in enumerate(("a", "b", "a")):
            body = {"serialized_named_tensors": [weights], "weight_version": str(version)}
            await fleet.post(f"{fleet.urls[0]}/update_weights_from_tensor", body)
            found.append((await ask(client, 1)).tokens.tolist())
        return found

    first, other, again = simulated(scenario)
    assert first == again != other


def test_an_update_waits_for_requests_that_run_and_is_told_on() -> None:
    async def scenario(fleet: SimulatedFleet, client: EngineClient) -> tuple[float, int]:
        request = asyncio.ensure_future(ask(client, 1))
        await asyncio.sleep(1)
        body = {"serialized_named_tensors": ["a"], "weight_version": "1"}
        await fleet.post(f"{fleet.urls[0]}/update_weights_from_tensor", body)
        done = now()
        await request
        return done, next(iter(fleet.engines.values())).updates_under_load

    assert simulated(scenario, update_s=2.0) == (pytest.approx(12.0), 1)


@pytest.mark.parametrize("left_out", [0, 1, 4])
def test_a_cut_off_response_ends_where_it_would_have_ended(left_out: int) -> None:
    """Also where the client leaves out the last tokens that it was given, as the rollout does with one."""

    async def scenario(fleet: SimulatedFleet, client: EngineClient) -> tuple[list[int], list[int]]:
        fleet.route(fleet.urls[:1])
        whole = (await ask(client, 9)).tokens
        request = asyncio.ensure_future(ask(client, 9))
        await asyncio.sleep(4.5)
        await fleet.post(f"{fleet.urls[0]}/abort_request", {"abort_all": True})
        had = (await request).tokens
        assert 0 < len(had) < 10
        had = had[: len(had) - left_out]
        fleet.route(fleet.urls[1:])  # any engine of the fleet goes on with it
        rest = await client.generate(np.concatenate([PROMPT, had]), SamplingParams(100 - len(had)), 9)
        return [*had.tolist(), *rest.tokens.tolist()], whole.tolist()

    resumed, whole = simulated(scenario, engines=2)
    assert resumed == whole


def test_a_response_that_is_cut_off_is_begun_once_even_before_its_first_token() -> None:
    async def scenario(fleet: SimulatedFleet, client: EngineClient) -> list[int]:
        had: list[int] = []
        requests = [asyncio.ensure_future(ask(client, seed)) for seed in range(3)]  # for two slots
        await asyncio.sleep(4.5)
        await fleet.post(f"{fleet.urls[0]}/abort_request", {"abort_all": True})
        for seed, request in enumerate(requests):
            part = (await request).tokens
            had.append(len(part))
            await client.generate(np.concatenate([PROMPT, part]), SamplingParams(100 - len(part)), seed)
        assert sorted(had)[0] == 0
        return list(fleet.started.lengths)

    assert simulated(scenario, slots=2) == [10] * 3


def test_what_it_does_not_know_is_refused() -> None:
    async def scenario(fleet: SimulatedFleet, client: EngineClient) -> list[int]:
        url = fleet.urls[0]
        bodies: list[Any] = [
            {"input_ids": [1], "sampling_params": {"min_p": 0.1}},
            {"input_ids": []},
            {"input_ids": [[1], [2]], "sampling_params": [{}]},
            {"input_ids": [1], "sampling_params": {"n": 2}},
        ]
        return [(await fleet.post(f"{url}/generate", body))[0] for body in bodies]

    assert simulated(scenario) == [400] * 4


def test_whoever_cuts_off_all_requests_finds_the_engines_behind_the_router() -> None:
    async def scenario(fleet: SimulatedFleet, client: EngineClient) -> tuple[list[str], list[str]]:
        requests = [asyncio.ensure_future(ask(client, seed)) for seed in range(4)]
        await asyncio.sleep(1)
        for url in (engines := await client.engines()):
            await client.abort_at(url)
        return engines, [(await request).finish_reason for request in requests]

    engines, ends = simulated(scenario, engines=2)
    assert engines == ["http://engine-0.simulated", "http://engine-1.simulated"]
    assert ends == ["abort"] * 4


@pytest.mark.parametrize(("exactly", "versions"), [(False, {2, 3}), (True, {2})])
def test_an_engine_that_has_not_the_weights_that_a_request_needs_generates_nothing_of_it(
    exactly: bool, versions: set[int]
) -> None:
    async def scenario(fleet: SimulatedFleet, client: EngineClient) -> tuple[set[int], int]:
        for version, url in zip((1, 2, 3), fleet.urls, strict=True):
            body = {"serialized_named_tensors": [""], "weight_version": str(version)}
            await fleet.post(url + "/update_weights_from_tensor", body)
        needed = NeededWeights(2, exactly)
        asked = [client.generate(PROMPT, SamplingParams(100), seed, weights=needed) for seed in range(6)]
        found = await asyncio.gather(*asked)
        return {version for one in found for version in one.versions.tolist()}, fleet.engines[fleet.urls[0]].tokens

    assert simulated(scenario, engines=3) == (versions, 0)


def test_a_request_that_no_engine_has_the_weights_for_says_so() -> None:
    async def scenario(fleet: SimulatedFleet, client: EngineClient) -> None:
        await client.generate(PROMPT, SamplingParams(100), 0, weights=NeededWeights(1))

    with pytest.raises(RequestFailed, match="the engine holds weight version default, and the request wants 1"):
        simulated(scenario, timeout_s=5.0)

"""Short requests of the same moment share a call, and are each answered as if they had been sent alone."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np
import pytest
from fake_engine import CONTEXT, FakeEngine

from rlscale.rollout.engines.client import EngineClient
from rlscale.rollout.engines.generation import Generation, RequestFailed
from rlscale.rollout.engines.sampling_params import SamplingParams
from rlscale.rollout.engines.shared_calls import SHORT

PROMPT = np.array([5, 6, 7], np.int32)
SAMPLING = SamplingParams(max_new_tokens=6)


def talk(scenario: Callable[[FakeEngine, EngineClient], Awaitable[Any]]) -> Any:
    async def main() -> Any:
        async with FakeEngine() as engine:
            engine.takes_lists = True
            client = EngineClient(engine.url, "secret")
            try:
                return await asyncio.wait_for(scenario(engine, client), 20)
            finally:
                await client.close()

    return asyncio.run(main())


async def at_once(client: EngineClient, seeds: range, sampling: SamplingParams = SAMPLING) -> list[Generation]:
    return await asyncio.gather(*(client.generate(PROMPT, sampling, seed) for seed in seeds))


def test_shared_answers_are_those_of_requests_sent_alone() -> None:
    async def scenario(engine: FakeEngine, client: EngineClient) -> tuple[Any, Any, list[int]]:
        together = await at_once(client, range(100))
        return together, [await client.generate(PROMPT, SAMPLING, seed) for seed in range(100)], engine.lists

    together, alone, lists = talk(scenario)
    assert lists == [64, 36]
    assert len({generation.tokens.tobytes() for generation in alone}) > 50
    for one, other in zip(together, alone, strict=True):
        assert np.array_equal(one.tokens, other.tokens)
        assert np.array_equal(one.logprobs, other.logprobs)
        assert np.array_equal(one.versions, other.versions)
        assert one.finish_reason == other.finish_reason


def test_an_engine_that_is_set_aside_gets_no_shared_call_and_those_under_way_are_counted() -> None:
    async def scenario(engine: FakeEngine, client: EngineClient) -> tuple[list[int], list[int]]:
        engine.delay = lambda body: 0.1
        asked = asyncio.ensure_future(at_once(client, range(8)))
        while not engine.running:
            await asyncio.sleep(0.01)
        counts = [client.calls_at(engine.url)]
        client.set_aside([engine.url])
        await asked
        counts.append(client.calls_at(engine.url))
        await at_once(client, range(8))
        return engine.lists, counts

    assert talk(scenario) == ([8], [1, 0])


def test_long_requests_named_ones_and_single_ones_travel_alone() -> None:
    async def scenario(engine: FakeEngine, client: EngineClient) -> list[int]:
        await at_once(client, range(4), SamplingParams(SHORT + 1))
        await asyncio.gather(*(client.generate(PROMPT, SAMPLING, seed, rid=str(seed)) for seed in range(4)))
        await client.generate(PROMPT, SAMPLING, 9)
        assert len(engine.requests) == 9
        return engine.lists

    assert talk(scenario) == []


def test_a_request_that_the_engine_refuses_takes_no_other_with_it() -> None:
    async def scenario(engine: FakeEngine, client: EngineClient) -> tuple[list[Any], int]:
        prompts = [PROMPT, np.ones(CONTEXT + 1, np.int32), PROMPT]
        calls = (client.generate(prompt, SAMPLING, seed) for seed, prompt in enumerate(prompts))
        return await asyncio.gather(*calls, return_exceptions=True), client.retried

    (first, second, third), retried = talk(scenario)
    assert isinstance(second, RequestFailed)
    assert "longer than the context" in str(second)
    assert len(first.tokens)
    assert len(third.tokens)
    assert retried == 0


@pytest.mark.parametrize(("status", "counted"), [(500, 3), (503, 0)])
def test_a_call_that_breaks_is_sent_again_request_by_request(status: int, counted: int) -> None:
    """Counted where it may have been sampled."""

    async def scenario(engine: FakeEngine, client: EngineClient) -> tuple[list[Generation], int, int]:
        faults = iter([None, status])
        engine.fault = lambda body: next(faults, None)
        return await at_once(client, range(3)), len(engine.requests), client.retried

    found, requests, retried = talk(scenario)
    assert all(len(generation.tokens) for generation in found)
    assert (requests, retried) == (6, counted)


def test_one_request_can_be_given_up_and_the_others_are_answered() -> None:
    async def scenario(engine: FakeEngine, client: EngineClient) -> list[Any]:
        engine.delay = lambda body: 0.2
        tasks = [asyncio.create_task(client.generate(PROMPT, SAMPLING, seed)) for seed in range(3)]
        await asyncio.sleep(0.1)
        tasks[1].cancel()
        return await asyncio.gather(*tasks, return_exceptions=True)

    first, second, third = talk(scenario)
    assert isinstance(second, asyncio.CancelledError)
    assert len(first.tokens)
    assert len(third.tokens)


def test_a_call_that_nobody_waits_for_is_given_up() -> None:
    async def scenario(engine: FakeEngine, client: EngineClient) -> int:
        engine.delay = lambda body: 60.0
        tasks = [asyncio.create_task(client.generate(PROMPT, SAMPLING, seed)) for seed in range(3)]
        await asyncio.sleep(0.1)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.sleep(0.05)
        return len(client._shared._tasks)  # nothing else shows that the call has ended

    assert talk(scenario) == 0


@pytest.mark.parametrize("engines", [2, 3])
def test_calls_are_spread_evenly_over_the_engines_of_a_router(engines: int) -> None:
    async def main() -> list[list[int]]:
        fleet = [FakeEngine() for _ in range(engines)]
        client = EngineClient("http://127.0.0.1:9", "secret")
        for engine in fleet:
            await engine.__aenter__()
            engine.takes_lists = True

        async def listed(ready: bool = False) -> list[str]:
            return [engine.url for engine in fleet]

        client.engines = listed  # type: ignore[method-assign]  # a router
        await at_once(client, range(12))
        await client.close()
        for engine in fleet:
            await engine.__aexit__()
        return [engine.lists for engine in fleet]

    assert asyncio.run(asyncio.wait_for(main(), 20)) == [[12 // engines]] * engines


@pytest.mark.parametrize(("kinds", "alone"), [(("regular", "regular"), 2), (("prefill", "decode"), 0), ((None,), 1)])
def test_engines_that_share_requests_are_sent_none_past_the_router(kinds: tuple[str | None, ...], alone: int) -> None:
    workers = [
        {"url": f"http://{number}", "is_healthy": True} | ({} if kind is None else {"worker_type": kind})
        for number, kind in enumerate(kinds)
    ]

    class Router:
        async def get(self, url: str) -> tuple[int, Any]:
            return 200, {"workers": workers}

    async def scenario() -> tuple[int, int]:
        client = EngineClient("http://router", connect=lambda *_: Router())  # type: ignore[arg-type,return-value]  # a part
        return len(await client.engines(ready=True)), len(await client.engines())

    assert asyncio.run(scenario()) == (alone, len(kinds))

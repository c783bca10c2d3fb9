"""The client: what it sends again, what it gives up, what it counts."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np
import pytest
from fake_engine import FakeEngine

from rlscale.rollout.client import EngineClient, RequestFailed, SamplingParams

PROMPT = np.array([5, 6, 7], np.int32)
SAMPLING = SamplingParams(max_new_tokens=4)


def talk(scenario: Callable[[FakeEngine, EngineClient], Awaitable[Any]], **options: Any) -> Any:
    async def main() -> Any:
        async with FakeEngine() as engine:
            client = EngineClient(engine.url, "secret", **options)
            try:
                return await asyncio.wait_for(scenario(engine, client), 20)
            finally:
                await client.close()

    return asyncio.run(main())


def first_times(count: int, fault: int | str) -> Callable[[dict[str, Any]], int | str | None]:
    left = [count]

    def decide(body: dict[str, Any]) -> int | str | None:
        left[0] -= 1
        return fault if left[0] >= 0 else None

    return decide


@pytest.mark.parametrize("fault", [503, 500, "drop"])
def test_a_request_that_breaks_is_sent_again_and_counted(fault: int | str) -> None:
    async def scenario(engine: FakeEngine, client: EngineClient) -> tuple[int, int, set[int]]:
        engine.fault = first_times(2, fault)
        generation = await client.generate(PROMPT, SAMPLING, seed=1)
        return len(generation.tokens), client.retried, set(engine.seeds())

    length, retried, seeds = talk(scenario)
    assert length > 0
    assert retried == 2
    assert seeds == {1}


def test_a_request_that_keeps_breaking_fails_after_its_retries() -> None:
    async def scenario(engine: FakeEngine, client: EngineClient) -> int:
        engine.fault = lambda body: "drop"
        with pytest.raises(RequestFailed, match="sent 2 times"):
            await client.generate(PROMPT, SAMPLING, seed=1)
        return client.retried

    assert talk(scenario, retries=1) == 1


def test_a_refused_request_is_not_sent_again() -> None:
    async def scenario(engine: FakeEngine, client: EngineClient) -> int:
        engine.fault = lambda body: 400
        with pytest.raises(RequestFailed, match="HTTP 400"):
            await client.generate(PROMPT, SAMPLING, seed=1)
        return len(engine.requests)

    assert talk(scenario) == 1


def test_an_engine_that_comes_back_in_time_costs_no_retry_of_its_own() -> None:
    async def scenario(engine: FakeEngine, client: EngineClient) -> int:
        engine.fault = first_times(4, 503)
        return len((await client.generate(PROMPT, SAMPLING, seed=1)).tokens)

    assert talk(scenario, retries=0) > 0


def test_nobody_there_until_the_timeout_is_a_failed_request() -> None:
    async def main() -> None:
        client = EngineClient("http://127.0.0.1:9", timeout_s=0.6)
        with pytest.raises(RequestFailed, match=r"127.0.0.1:9 was not available for 0.6 s"):
            await client.generate(PROMPT, SAMPLING, seed=1)
        await client.close()

    asyncio.run(main())


def test_a_request_over_its_time_is_sent_again() -> None:
    async def scenario(engine: FakeEngine, client: EngineClient) -> int:
        engine.delay = lambda body: 5.0 if len(engine.requests) == 1 else 0.0
        await client.generate(PROMPT, SAMPLING, seed=1)
        return client.retried

    assert talk(scenario, timeout_s=0.3) == 1


def test_the_version_is_a_number_or_unknown() -> None:
    async def scenario(engine: FakeEngine, client: EngineClient) -> list[int | None]:
        versions = []
        for engine.weight_version in ("default", "12"):
            versions.append((await client.generate(PROMPT, SAMPLING, seed=1)).version)
        return versions

    assert talk(scenario) == [None, 12]


def test_an_aborted_request_keeps_its_tokens() -> None:
    async def scenario(engine: FakeEngine, client: EngineClient) -> tuple[str, int]:
        engine.delay = lambda body: 5.0
        request = asyncio.create_task(client.generate(PROMPT, SAMPLING, seed=1, rid="a"))
        while not engine.running:
            await asyncio.sleep(0.01)
        await client.abort()
        generation = await request
        return generation.finish_reason, len(generation.tokens)

    reason, length = talk(scenario)
    assert reason == "abort"
    assert length > 0

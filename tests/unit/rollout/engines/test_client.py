"""The client: what it sends again, what it gives up, what it counts."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np
import pytest
from fake_engine import FakeEngine, encoded, experts_by_place

from rlscale.config.errors import UserError
from rlscale.rollout.engines.client import EngineClient
from rlscale.rollout.engines.generation import Generation, RequestFailed
from rlscale.rollout.engines.routed_experts import ExpertSizes
from rlscale.rollout.engines.sampling_params import SamplingParams

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


@pytest.mark.parametrize(("fault", "counted"), [(503, 0), (429, 0), (502, 2), (500, 2), ("drop", 2)])
def test_a_request_that_breaks_is_sent_again_and_counted_where_it_may_have_been_sampled(
    fault: int | str, counted: int
) -> None:
    async def scenario(engine: FakeEngine, client: EngineClient) -> tuple[int, int, set[int]]:
        engine.fault = first_times(2, fault)
        generation = await client.generate(PROMPT, SAMPLING, seed=1)
        return len(generation.tokens), client.retried, set(engine.seeds())

    length, retried, seeds = talk(scenario)
    assert length > 0
    assert retried == counted
    assert seeds == {1}


def test_an_engine_that_a_router_does_not_reach_is_waited_for_however_often_it_is_tried() -> None:
    async def scenario(engine: FakeEngine, client: EngineClient) -> int:
        engine.fault, engine.fault_text = first_times(2, 500), '{"error": {"code": "call_upstream_request_error"}}'
        return len((await client.generate(PROMPT, SAMPLING, seed=1)).tokens)

    assert talk(scenario, retries=0) > 0


def test_a_request_that_keeps_breaking_fails_after_its_retries() -> None:
    async def scenario(engine: FakeEngine, client: EngineClient) -> int:
        engine.fault = lambda body: "drop"
        with pytest.raises(RequestFailed, match="sent 2 times"):
            await client.generate(PROMPT, SAMPLING, seed=1)
        return client.retried

    assert talk(scenario, retries=1) == 1


def test_requests_name_the_adapter_that_the_client_is_told_and_none_before() -> None:
    async def scenario(engine: FakeEngine, client: EngineClient) -> list[dict[str, Any]]:
        await client.generate(PROMPT, SAMPLING, seed=1)
        client.adapter = "policy-3"
        await asyncio.gather(*(client.generate(PROMPT, SAMPLING, seed=seed) for seed in (2, 3)))
        return engine.requests

    first, *others = talk(scenario)
    assert "lora_path" not in first
    assert {request["lora_path"] for request in others} == {"policy-3"}


def test_a_refused_request_is_not_sent_again() -> None:
    async def scenario(engine: FakeEngine, client: EngineClient) -> int:
        engine.fault = lambda body: 400
        with pytest.raises(RequestFailed, match="HTTP 400"):
            await client.generate(PROMPT, SAMPLING, seed=1)
        return len(engine.requests)

    assert talk(scenario) == 1


def test_an_engine_that_comes_back_in_time_costs_no_retry_of_its_own() -> None:
    async def scenario(engine: FakeEngine, client: EngineClient) -> int:
        engine.fault = first_times(2, 503)
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
    async def scenario(engine: FakeEngine, client: EngineClient) -> list[set[int]]:
        versions = []
        for engine.weight_version in ("default", "12"):
            versions.append({*(await client.generate(PROMPT, SAMPLING, seed=1)).versions.tolist()})
        return versions

    assert talk(scenario) == [{-1}, {12}]


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


SIZES = ExpertSizes(layers=3, top_k=2, experts=6)


def test_the_experts_of_every_input_token_come_with_the_answer_when_asked_for() -> None:
    async def scenario(engine: FakeEngine, client: EngineClient) -> list[Generation]:
        engine.routed = lambda tokens: encoded(experts_by_place(tokens))
        return [await client.generate(PROMPT, SAMPLING, seed=1, experts=experts) for experts in (SIZES, None)]

    asked, other = talk(scenario)
    inputs = len(PROMPT) + len(asked.tokens) - 1
    assert asked.routed_experts.dtype == np.int16
    assert asked.routed_experts.tolist() == experts_by_place(inputs).tolist()
    assert other.routed_experts is None


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (lambda tokens: None, "the answer has none; the engine must be started by rlscale, to return them through"),
        (lambda tokens: "not base64!", "the answer is not base64"),
        (lambda tokens: encoded(experts_by_place(tokens))[:-4], "bytes, which is not int32"),
        (lambda tokens: encoded(experts_by_place(tokens + 1)), r"bytes, which is not int32 \[\d, 3, 2\]"),
        (lambda tokens: encoded(experts_by_place(tokens) + 1), "the answer names experts 1 to 6 of 6"),
        (lambda tokens: encoded(experts_by_place(tokens) - 1), "the answer names experts -1 to 4 of 6"),
        (lambda tokens: encoded(np.zeros((tokens, 3, 2))), "twice for one token, so the engine did not record"),
    ],
)
def test_an_answer_without_usable_experts_is_a_failed_request_of_one_line(
    answer: Callable[[int], Any], reason: str
) -> None:
    async def scenario(engine: FakeEngine, client: EngineClient) -> str:
        engine.routed = answer
        with pytest.raises(RequestFailed, match=f"^routed experts: .*{reason}") as raised:
            await client.generate(PROMPT, SAMPLING, seed=1, experts=SIZES)
        return str(raised.value)

    assert "\n" not in talk(scenario)


def test_an_aborted_request_has_no_experts_and_keeps_its_tokens() -> None:
    async def scenario(engine: FakeEngine, client: EngineClient) -> Generation:
        engine.delay = lambda body: 5.0
        request = asyncio.create_task(client.generate(PROMPT, SAMPLING, seed=1, rid="a", experts=SIZES))
        while not engine.running:
            await asyncio.sleep(0.01)
        await client.abort()
        return await request

    aborted = talk(scenario)
    assert (aborted.finish_reason, aborted.routed_experts) == ("abort", None)
    assert len(aborted.tokens) > 0


def test_the_sizes_are_read_from_the_models_config_under_either_name() -> None:
    sizes = {"num_hidden_layers": 3, "num_experts_per_tok": 2}
    assert ExpertSizes.of({**sizes, "num_experts": 6}) == ExpertSizes.of({**sizes, "num_local_experts": 6}) == SIZES
    with pytest.raises(UserError, match="the model \\(qwen3\\) has no experts; set it to none"):
        ExpertSizes.of({"model_type": "qwen3", "num_hidden_layers": 3})


def test_what_an_engine_says_of_layers_without_experts_is_not_looked_at() -> None:
    config = {"model_type": "glm4_moe", "num_hidden_layers": 2, "n_routed_experts": 4, "num_experts_per_tok": 2}
    sizes = ExpertSizes.of({**config, "first_k_dense_replace": 1})
    answer = base64.b64encode(np.array([[[0, 0], [1, 3]]], np.int32).tobytes()).decode()
    assert sizes.decode(answer, 1)[0, 1].tolist() == [1, 3]
    with pytest.raises(ValueError, match="names an expert twice"):
        ExpertSizes(layers=2, top_k=2, experts=4).decode(answer, 1)

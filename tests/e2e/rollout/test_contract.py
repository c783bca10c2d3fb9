"""What the rollout's client relies on: the same against a real server, the simulator, and the unit tests' fake one."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np
import pytest
from fake_engine import CONTEXT, FakeEngine
from shared_server import SharedServer

from rlscale.config.schema.rollout_config import OnSync
from rlscale.config.schema.simulator_config import LengthsConfig, SimulatedEngineConfig
from rlscale.rollout.attempt import Attempt
from rlscale.rollout.engines.admission import Admission
from rlscale.rollout.engines.client import EngineClient
from rlscale.rollout.engines.continued import Continued, Cuts
from rlscale.rollout.engines.generation import Generation, RequestFailed
from rlscale.rollout.engines.on_sync_modes import on_sync_mode
from rlscale.rollout.engines.routed_experts import ExpertSizes
from rlscale.rollout.engines.sampling_params import SamplingParams
from rlscale.rollout.ledger import Ledger
from rlscale.serve.simulator.simulated_endpoint import SimulatedEndpoint
from rlscale.serve.simulator.simulated_engine import SimulatedEngine

PROMPT = np.array([8, 11, 14, 7, 12, 15, 2], np.int32)
END = 3

LENGTHS = LengthsConfig(median=8.0, sigma=1.5, cap=50.0, prompt_share=0.0)
SIMULATED = SimulatedEngineConfig(decode_s=0.002, context=CONTEXT, lengths=LENGTHS)

Talk = Callable[..., Any]


@pytest.fixture(scope="module")
def real(shared_server: SharedServer) -> SharedServer:
    """The shared engine with weights of which no word is sure, and log-probs of a few."""
    shared_server.load_folder()
    return shared_server


@pytest.fixture(params=["fake", "simulated", "real"])
def talk(request: pytest.FixtureRequest) -> Talk:
    """Runs a scenario with a client of the engine; `key` replaces the API key."""

    def call(scenario: Callable[[EngineClient], Awaitable[Any]], key: str | None = None) -> Any:
        async def against(url: str, api_key: str) -> Any:
            client = EngineClient(url, key or api_key, timeout_s=60.0)
            try:
                return await scenario(client)
            finally:
                await client.close()

        async def main() -> Any:
            if request.param == "real":
                server = request.getfixturevalue("real")
                return await against(server.url, server.api_key)
            if request.param == "simulated":
                async with SimulatedEndpoint(SimulatedEngine(SIMULATED), "secret") as endpoint:
                    return await against(endpoint.url, "secret")
            async with FakeEngine() as engine:
                engine.delay = lambda body: 5.0 if "rid" in body else 0.0
                return await against(engine.url, "secret")

        return asyncio.run(main())

    if request.param == "real":
        request.getfixturevalue("real")
    return call


def generate(
    seed: int, tokens: int = 8, prompt: np.ndarray = PROMPT, rid: str | None = None
) -> Callable[[EngineClient], Awaitable[Generation]]:
    return lambda client: client.generate(prompt, SamplingParams(tokens), seed, rid)


def test_a_response_ends_with_the_end_token_or_at_the_limit(talk: Talk) -> None:
    async def scenario(client: EngineClient) -> list[Generation]:
        return await asyncio.gather(*[generate(seed, tokens=6)(client) for seed in range(40)])

    found = talk(scenario)
    for generation in found:
        assert generation.tokens.dtype == np.int32
        assert generation.logprobs.dtype == np.float32
        assert len(generation.tokens) == len(generation.logprobs) <= 6
        assert (generation.logprobs <= 0).all()
        ended = generation.tokens[-1] == END
        assert generation.finish_reason == ("stop" if ended else "length")
        assert ended or len(generation.tokens) == 6
    assert {generation.finish_reason for generation in found} == {"stop", "length"}


def test_a_response_ends_at_the_end_of_turn_that_the_run_asks_for(talk: Talk) -> None:
    ends = tuple(range(END + 1, 8))

    async def scenario(client: EngineClient) -> list[Generation]:
        sampling = SamplingParams(16, stop_token_ids=ends)
        return await asyncio.gather(*[client.generate(PROMPT, sampling, seed) for seed in range(20)])

    stopped = [found.tokens.tolist() for found in talk(scenario) if found.finish_reason == "stop"]
    assert {tokens[-1] for tokens in stopped} & set(ends), "the token that ended it is part of the response"
    assert not any(set(tokens[:-1]) & {END, *ends} for tokens in stopped)


@pytest.mark.parametrize("talk", ["simulated", "real"], indirect=True)
def test_no_token_ends_a_response_that_ignores_its_ends_not_even_one_that_was_asked_for(talk: Talk) -> None:
    """Why `ignore_eos` and `stop_token_ids` together are refused."""
    sampling = SamplingParams(40, stop_token_ids=tuple(range(END, 12)), ignore_eos=True)
    generation = talk(lambda client: client.generate(PROMPT, sampling, 1))
    assert (len(generation.tokens), generation.finish_reason) == (40, "length")


def test_the_seed_decides_alone_and_in_company(talk: Talk) -> None:
    async def scenario(client: EngineClient) -> tuple[list[int], list[list[int]]]:
        alone = await generate(7)(client)
        together = await asyncio.gather(*[generate(seed)(client) for seed in (7, 8, 9, 10, 7)])
        return alone.tokens.tolist(), [generation.tokens.tolist() for generation in together]

    alone, together = talk(scenario)
    assert together[0] == together[4] == alone
    assert len({tuple(tokens) for tokens in together}) > 2


def test_an_engine_that_does_not_say_which_experts_it_chose_fails_the_request(talk: Talk) -> None:
    sizes = ExpertSizes(layers=4, top_k=2, experts=8)
    with pytest.raises(RequestFailed, match=r"^routed experts: the answer has none; the engine must be started by"):
        talk(lambda client: client.generate(PROMPT, SamplingParams(4), 1, experts=sizes))


def test_given_tokens_are_scored_without_the_first(talk: Talk) -> None:
    logprobs = talk(lambda client: client.score(PROMPT))
    assert logprobs.shape == (7,)
    assert logprobs[0] == 0
    assert (logprobs[1:] < 0).all()


def test_every_token_has_the_version_of_the_weights_that_generated_it(talk: Talk) -> None:
    generation = talk(generate(1, tokens=6))
    assert generation.versions.dtype == np.int32
    assert len({*generation.versions.tolist()}) == 1
    assert len(generation.versions) == len(generation.tokens)


def test_a_wrong_key_is_refused(talk: Talk) -> None:
    with pytest.raises(RequestFailed, match="HTTP 401"):
        talk(generate(1), key="wrong")


def test_a_prompt_over_the_context_is_refused_and_not_sent_again(talk: Talk) -> None:
    async def scenario(client: EngineClient) -> int:
        with pytest.raises(RequestFailed, match="HTTP 400"):
            await generate(1, prompt=np.full(600, 5, np.int32))(client)
        return client.retried

    assert talk(scenario) == 0


def test_an_aborted_request_comes_back_with_what_it_had(talk: Talk) -> None:
    async def scenario(client: EngineClient) -> tuple[Generation, Generation]:
        whole = await asyncio.gather(*[generate(seed, tokens=400)(client) for seed in range(60)])
        seed = int(np.argmax([len(generation.tokens) for generation in whole]))
        request = asyncio.create_task(generate(seed, tokens=400, rid="long")(client))
        while not request.done():
            await asyncio.sleep(0.02)
            await client.abort("long")
        return whole[seed], await request

    whole, aborted = talk(scenario)
    assert aborted.finish_reason == "abort"
    assert aborted.tokens.tolist() == whole.tokens[: len(aborted.tokens)].tolist()


def test_requests_of_one_moment_are_answered_as_if_sent_alone(talk: Talk) -> None:
    """They share calls, where the engine takes lists."""

    async def scenario(client: EngineClient) -> tuple[list[Generation], list[Generation]]:
        together = await asyncio.gather(*(generate(seed)(client) for seed in range(24)))
        return together, [await generate(seed)(client) for seed in range(24)]

    for one, other in zip(*talk(scenario), strict=True):
        np.testing.assert_array_equal(one.tokens, other.tokens)
        np.testing.assert_allclose(one.logprobs, other.logprobs, atol=2e-6)
        assert one.finish_reason == other.finish_reason


@pytest.mark.parametrize("talk", ["simulated", "real"], indirect=True)
def test_responses_that_syncs_cut_off_are_those_that_none_did_and_no_token_is_lost(talk: Talk) -> None:
    """Cut off at any token, the last one included, which the engine then calls aborted, too."""
    ledger, cuts = Ledger(), Cuts()

    async def scenario(client: EngineClient) -> tuple[list[Generation], list[Generation]]:
        admission, engines = Admission(64), Continued(client, cuts)
        mode = on_sync_mode(OnSync.abort_and_resume, admission, client, cuts)

        async def one(seed: int) -> Generation:
            sampling = SamplingParams(40, stop_token_ids=(END,))
            return await engines.generate(PROMPT, sampling, seed, admission, Attempt(lambda: -1, ledger))

        whole = await asyncio.gather(*map(one, range(16)))
        again = asyncio.gather(*map(one, range(16)))
        while not again.done():
            await asyncio.sleep(0.01)
            await mode.pause()
            mode.resume()
        return whole, await again

    for one, other in zip(*talk(scenario), strict=True):
        np.testing.assert_array_equal(other.tokens, one.tokens)
        np.testing.assert_allclose(other.logprobs, one.logprobs, atol=1e-5)
        assert (other.finish_reason, len(other.versions)) == (one.finish_reason, len(one.tokens))
    print("cuts", cuts.count)
    assert cuts.count >= 3
    assert not ledger.tokens.fates["discarded_cut_off"]

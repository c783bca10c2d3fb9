"""The published clients on a real engine: what is trained on has the log-probs that the engine sampled it with."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import nullcontext

import numpy as np
import pytest
from shared_server import SharedServer

from rlscale.config.schema.data_config import DataConfig
from rlscale.data.sample import Prompt, Sample
from rlscale.data.tokens.prompt_encoder import PromptEncoder
from rlscale.rollout.attempt import Attempt
from rlscale.rollout.endpoint.agent_session import Limits, Policy, Session
from rlscale.rollout.endpoint.endpoint_server import EndpointServer
from rlscale.rollout.endpoint.output_parser import EngineParser
from rlscale.rollout.engines.client import EngineClient
from rlscale.rollout.engines.continued import Continued, Cuts
from rlscale.rollout.engines.sampling_params import SamplingParams
from tests.e2e.clients.outside import Outside

TALKS = [("linear", "chat"), ("parallel", "messages"), ("edited", "responses")]


async def talked(outside: Outside, server: SharedServer) -> tuple[list[Sample], list[np.ndarray]]:
    """A sample of each talk, and what the engine says of the tokens of each of their segments."""
    server.load_folder()  # weights of which no word is sure: the test before may have left others
    client = EngineClient(server.url, server.api_key)
    encoder = PromptEncoder(server.model_folder, DataConfig(), 400)
    sampling = SamplingParams(max_new_tokens=200, stop_token_ids=(encoder.end_of_turn.token,))
    policy = Policy(Continued(client, Cuts()), encoder, sampling, EngineParser(client, None, None), 400)
    endpoint = EndpointServer()
    await endpoint.start()
    samples, found = [], []
    try:
        for number, (scenario, protocol) in enumerate(TALKS):
            # The weights' version is none of this test's business: that of nobody is older than any.
            attempt = Attempt(lambda: -1)
            session = Session(policy, Limits(max_turn_tokens=8), lambda n: n % 2**31, attempt, nullcontext())
            async with endpoint.open(session) as visit:
                heard = await asyncio.to_thread(outside.have, scenario, protocol, visit)
            assert len(heard) == len(session.tree.turns)
            prompt = Prompt(number, str(number), np.zeros(1, np.int32), None)
            samples.append(session.tree.trajectory().sample(prompt, 0))
            assert samples[-1].loss_mask.sum() == session.tree.generated
            found += [await client.score(tokens) for tokens in segments(samples[-1], samples[-1].tokens)]
        return samples, found
    finally:
        await endpoint.close()
        await client.close()


def segments(sample: Sample, values: np.ndarray) -> Iterator[np.ndarray]:
    """A value per token, cut up into segments."""
    ends = np.cumsum([segment.length for segment in sample.segments])
    return iter(np.split(values, ends[:-1]))


@pytest.mark.timeout(400)  # the clients may have to be installed first
def test_logprobs_of_what_the_clients_were_told_are_those_of_its_segments(
    outside: Outside, shared_server: SharedServer
) -> None:
    samples, found = asyncio.run(talked(outside, shared_server))
    assert [len(sample.segments) for sample in samples] == [1, 4, 2]
    sampled = [part for sample in samples for part in segments(sample, sample.rollout_logprobs)]
    masks = [part for sample in samples for part in segments(sample, sample.loss_mask)]
    for mask, engine, scored in zip(masks, sampled, found, strict=True):
        assert mask.sum() > 0
        assert np.abs(engine[mask] - scored[mask]).max() < 1e-4

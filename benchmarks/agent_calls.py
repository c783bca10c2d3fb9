"""Calls per second that agents get through the endpoint: `python benchmarks/agent_calls.py`, under a minute.

Agents of several turns, each with a growing conversation, call a session of the endpoint over HTTP; behind it a
simulated engine whose answers take no time. Agents, endpoint and engine share one core, so that the endpoint alone is
faster than the figure. docs/benchmarks.md holds a measured table.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import time
from contextlib import nullcontext
from datetime import date
from pathlib import Path

import aiohttp
from machine import describe_machine, load_average
from simulated import simulated_client

from rlscale.config.schema.data_config import DataConfig
from rlscale.data.tokens.character_tokenizer import character_tokenizer
from rlscale.data.tokens.prompt_encoder import PromptEncoder
from rlscale.rollout.attempt import Attempt
from rlscale.rollout.endpoint.agent_session import Limits, Policy, Session
from rlscale.rollout.endpoint.endpoint_server import EndpointServer
from rlscale.rollout.endpoint.output_parser import EngineParser
from rlscale.rollout.engines.continued import Continued, Cuts
from rlscale.rollout.engines.sampling_params import SamplingParams

AIM = 300
LENGTH = 32
"""Tokens of an answer."""


async def agent(http: aiohttp.ClientSession, base_url: str, key: str, turns: int) -> None:
    """One conversation."""
    said = [{"role": "user", "content": f"question {key[:8]}"}]
    for turn in range(turns):
        headers = {"Authorization": f"Bearer {key}"}
        body = {"messages": said, "max_tokens": LENGTH}
        async with http.post(f"{base_url}/chat/completions", json=body, headers=headers) as answer:
            message = (await answer.json())["choices"][0]["message"]
        said += [message, {"role": "user", "content": f"and {turn}?"}]


async def measure(encoder: PromptEncoder, agents: int, turns: int) -> tuple[float, float]:
    """Calls per second, by the clock and of processor time: the same on a machine with nothing else to do."""
    client = simulated_client(agents, LENGTH, vocabulary=90)
    sampling = SamplingParams(max_new_tokens=100_000, stop_token_ids=(encoder.end_of_turn.token,))
    policy = Policy(Continued(client, Cuts()), encoder, sampling, EngineParser(client, None, None), 200_000)
    server = EndpointServer()
    await server.start()

    async def one(http: aiohttp.ClientSession, number: int) -> None:
        session = Session(policy, Limits(), lambda turn: turn & 0x7FFFFFFF, Attempt(lambda: -1), nullcontext())
        async with server.open(session) as visit:
            await agent(http, visit.base_url, visit.key, turns)
        assert len(session.tree.turns) == turns
        assert len(list(session.tree.sequences())) == 1

    try:
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as http:
            begun, computed = time.perf_counter(), time.process_time()
            await asyncio.gather(*(one(http, number) for number in range(agents)))
            calls = agents * turns
            return calls / (time.perf_counter() - begun), calls / (time.process_time() - computed)
    finally:
        await server.close()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Benchmark of the endpoint for agents.")
    parser.add_argument("--agents", type=int, default=256)
    parser.add_argument("--turns", type=int, default=10)
    args = parser.parse_args()
    described = ", ".join(f"{name} {value}" for name, value in describe_machine().items())
    print(f"{described}, {date.today()}, load {load_average()}")
    with tempfile.TemporaryDirectory() as folder:
        tokenizer = character_tokenizer("\n" + "".join(map(chr, range(32, 127))), 100_000)
        tokenizer.save_pretrained(Path(folder))
        encoder = PromptEncoder(folder, DataConfig(), 10_000)
        clock, core = asyncio.run(measure(encoder, args.agents, args.turns))
    print(f"{args.agents} agents of {args.turns} turns: {clock:.0f} calls/s, {core:.0f} per core second (aim {AIM})")


if __name__ == "__main__":
    main()

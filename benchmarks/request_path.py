"""What the requests of an iteration cost besides generating: client, router, engine's HTTP side, engine's scheduler.

The default recipe's iteration, 64 groups of 8 samples of at most 5 tokens, sent in several ways to one engine with the
recipe's tiny model: as a run sends them; each by itself, through the router and without it; and as lists of requests in
one call each. `python benchmarks/request_path.py [rounds]`: the ways take turns. Computing seconds of each process,
as its kernel counts them, so that what else the machine does falls out; wall seconds beside them. All ways must bring
the same tokens.
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import psutil

from rlscale.config.composition.compose import compose
from rlscale.config.schema.cluster_config import Device
from rlscale.data.folders.model_folder import ensure_model_folder
from rlscale.rollout.engines.client import EngineClient
from rlscale.rollout.engines.sampling_params import SamplingParams
from rlscale.serve.engine_process import start_fork_server
from rlscale.serve.router import RouterClient
from rlscale.serve.server_spec import ServerSpec, fork_server_environment
from rlscale.serve.supervisor import Supervisor

GROUPS, SAMPLES, LONGEST = 64, 8, 5
END = 3
"""`<|im_end|>` of the tokenizer that the project makes."""
SAMPLING = SamplingParams(LONGEST, stop_token_ids=(END,))
PLACES = ("client", "router", "engine, HTTP", "engine, scheduler")

Tokens = list[list[int]]


@dataclass(frozen=True)
class Cost:
    """Of one way of sending: wall seconds, computing seconds by place, and what came back."""

    wall: float
    computing: dict[str, float]
    tokens: Tokens


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    found: dict[str, list[Cost]] = {}
    with tempfile.TemporaryDirectory(prefix="requests-") as name:
        folder, key = Path(name), secrets.token_hex(16)
        forks = start_fork_server(fork_server_environment(folder), folder)
        supervisor = Supervisor(folder / "logs", folder / "scratch", key, fork_server=forks.address)
        try:
            model = ensure_model_folder(compose().model, folder / "scratch")
            most = GROUPS * SAMPLES
            options = {"max_running_requests": most, "disable_radix_cache": True}
            engine = supervisor.start_engine(ServerSpec("engine-0", str(model), Device.cpu, options=options))
            router = supervisor.start_router({})
            RouterClient(router, key).add(engine)
            ways: dict[str, Callable[[], Awaitable[Tokens]]] = {
                "as a run sends them": lambda: by_client(router, key, named=False),
                "one request per call, router": lambda: by_client(router, key, named=True),
                "one request per call": lambda: by_client(engine, key, named=True),
                "a group per call": lambda: in_lists(engine, key, SAMPLES),
                "a group per call, each answer as it is done": lambda: streamed(engine, key, SAMPLES),
                "eight groups per call": lambda: in_lists(engine, key, 8 * SAMPLES),
            }
            for _ in range(rounds + 1):
                for way, send in ways.items():
                    found.setdefault(way, []).append(measured(send))
        finally:
            supervisor.stop()
            forks.stop()
    print(f"load at the end {os.getloadavg()[0]:.2f}; medians of {rounds} rounds after one")
    print("| sent as | wall, s | " + " | ".join(f"{place}, CPU s" for place in PLACES) + " | without the scheduler |")
    print("|---" * (len(PLACES) + 3) + "|")
    expected = next(iter(found.values()))[0].tokens
    for way, costs in found.items():
        assert all(cost.tokens == expected for cost in costs), f"{way}: other tokens"
        print(row(way, costs[1:]))


def row(way: str, costs: Sequence[Cost]) -> str:
    by_place = [statistics.median(cost.computing[place] for cost in costs) for place in PLACES]
    figures = [statistics.median(cost.wall for cost in costs), *by_place, sum(by_place[:-1])]
    return f"| {way} | " + " | ".join(f"{figure:.2f}" for figure in figures) + " |"


def measured(send: Callable[[], Awaitable[Tokens]]) -> Cost:
    """What it costs to send once."""
    before, began = computing(), time.perf_counter()
    tokens = asyncio.run(_awaited(send))
    wall, after = time.perf_counter() - began, computing()
    return Cost(wall, {place: after[place] - before[place] for place in PLACES}, tokens)


async def _awaited(send: Callable[[], Awaitable[Tokens]]) -> Tokens:
    return await send()


def computing() -> dict[str, float]:
    """Computing seconds so far of this process, the router, and the engine's two."""
    seconds = dict.fromkeys(PLACES, 0.0)
    own = psutil.Process()
    for process in [own, *own.children(recursive=True)]:
        try:
            words, used = " ".join(process.cmdline()), process.cpu_times()
        except psutil.Error:
            continue
        seconds[_place(words, process == own)] += used.user + used.system
    return seconds


def _place(words: str, own: bool) -> str:
    if own:
        return "client"
    if "router_main" in words:
        return "router"
    return "engine, scheduler" if "sglang::scheduler" in words else "engine, HTTP"


def requests() -> list[tuple[list[int], int]]:
    """Prompt and seed of every request of the iteration, group by group."""
    prompts = [[4 + group % 10, 4 + group // 10, 14, 6, 7, 17, 2] for group in range(GROUPS)]
    return [(prompt, number) for number, prompt in enumerate(p for p in prompts for _ in range(SAMPLES))]


async def by_client(url: str, key: str, *, named: bool) -> Tokens:
    """By the rollout's client; requests with names travel by themselves."""
    client = EngineClient(url, key, connections=GROUPS * SAMPLES)
    try:
        answers = await asyncio.gather(
            *(
                client.generate(np.array(prompt, np.int32), SAMPLING, seed, f"request-{seed}" if named else None)
                for prompt, seed in requests()
            )
        )
        return [answer.tokens.tolist() for answer in answers]
    finally:
        await client.close()


async def in_lists(url: str, key: str, size: int) -> Tokens:
    """`size` requests in each call, with parameters of their own; a call is answered when all of them are done."""
    every = requests()
    async with _session(key) as session:

        async def call(part: Sequence[tuple[list[int], int]]) -> list[dict[str, Any]]:
            async with session.post(f"{url}/generate", json=_body(part)) as response:
                response.raise_for_status()
                answers: list[dict[str, Any]] = await response.json()
                return answers

        lists = await asyncio.gather(*(call(every[at : at + size]) for at in range(0, len(every), size)))
    return [_tokens(one) for answers in lists for one in answers]


async def streamed(url: str, key: str, size: int) -> Tokens:
    """The same, and every answer comes when it is done: as a stream of which an engine sends the ends alone, almost."""
    every = requests()
    found: dict[int, list[int]] = {}
    async with _session(key) as session:

        async def call(first: int) -> None:
            body = _body(every[first : first + size], stream_interval=1_000_000) | {"stream": True}
            async with session.post(f"{url}/generate", json=body) as response:
                response.raise_for_status()
                async for line in response.content:
                    if line.startswith(b"data: {"):
                        answer = json.loads(line.removeprefix(b"data: "))
                        if answer["meta_info"]["finish_reason"] is not None:  # not the first token's
                            found[first + answer["index"]] = _tokens(answer)

        await asyncio.gather(*(call(at) for at in range(0, len(every), size)))
    return [found[number] for number in range(len(every))]


def _session(key: str) -> aiohttp.ClientSession:
    connector = aiohttp.TCPConnector(limit=GROUPS * SAMPLES)
    # Lines of a stream are as long as an answer.
    return aiohttp.ClientSession(connector=connector, headers={"Authorization": f"Bearer {key}"}, read_bufsize=2**20)


def _body(part: Sequence[tuple[list[int], int]], **parameters: Any) -> dict[str, Any]:
    return {
        "input_ids": [prompt for prompt, _ in part],
        "sampling_params": [{**SAMPLING.body(seed), **parameters} for _, seed in part],
        "return_logprob": True,
    }


def _tokens(answer: dict[str, Any]) -> list[int]:
    return [entry[1] for entry in answer["meta_info"]["output_token_logprobs"]]


if __name__ == "__main__":
    main()

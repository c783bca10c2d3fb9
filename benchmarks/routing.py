"""Policies of the real router, measured before simulated engines in real time: how many slots does each leave empty?

    cd benchmarks && python routing.py

As many requests are in flight as all engines have slots, as in a rollout. Responses have log-normal lengths; the same
ones for every policy. `of the ideal`: what the tokens would take if no slot were ever empty, over what they took. With
`manual` each request is a trajectory of its own, and goes where the fewest requests are.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import numpy as np

from rlscale.config.derived.sticky_routing import STICKY
from rlscale.config.schema.simulator_config import LengthsConfig, SimulatedEngineConfig
from rlscale.rollout.engines.admission import Admission
from rlscale.rollout.engines.client import EngineClient
from rlscale.rollout.engines.sampling_params import SamplingParams
from rlscale.serve.router import RouterClient
from rlscale.serve.simulator.simulated_endpoint import SimulatedEndpoint
from rlscale.serve.simulator.simulated_engine import SimulatedEngine
from rlscale.serve.supervisor import Supervisor

KEY = "routing"
ENGINES, SLOTS, REQUESTS, LONGEST = 4, 16, 1280, 240
STEP_S = 0.02
POLICIES: dict[str, dict[str, Any]] = {
    "round_robin": {"policy": "round_robin"},
    "random": {"policy": "random"},
    "manual": {"policy": STICKY},
}
CONFIG = SimulatedEngineConfig(
    slots=SLOTS, decode_s=STEP_S, half_batch=1e9, lengths=LengthsConfig(median=40.0, cap=6.0, prompt_share=0.0)
)
PROMPT = np.array([8, 11, 14, 7], np.int32)


async def measured(folder: Path, options: dict[str, Any]) -> tuple[float, int]:
    """Seconds and tokens of all requests."""
    supervisor = Supervisor(folder / "logs", folder / "scratch", KEY)
    try:
        url = await asyncio.to_thread(supervisor.start_router, options)
        async with AsyncExitStack() as stack:
            engines = [SimulatedEngine(CONFIG, number) for number in range(ENGINES)]
            for engine in engines:
                endpoint = await stack.enter_async_context(SimulatedEndpoint(engine, KEY))
                await asyncio.to_thread(RouterClient(url, KEY).add, endpoint.url)
            client = EngineClient(url, KEY, connections=2 * ENGINES * SLOTS)
            stack.push_async_callback(client.close)
            admission, named = Admission(ENGINES * SLOTS), options["policy"] == STICKY

            async def one(seed: int) -> int:
                async with admission.at(seed):
                    name = str(seed) if named else None
                    answer = await client.generate(PROMPT, SamplingParams(LONGEST), seed, trajectory=name)
                    return len(answer.tokens)

            began = time.monotonic()
            lengths = await asyncio.gather(*(one(seed) for seed in range(REQUESTS)))
            return time.monotonic() - began, sum(lengths)
    finally:
        await asyncio.to_thread(supervisor.stop)


def main() -> None:
    """Measure every policy once and print the table."""
    print(f"{ENGINES} engines x {SLOTS} slots, {REQUESTS} requests, {STEP_S} s per token")
    print("| policy | s | of the ideal |\n|---|---|---|")
    for name, options in POLICIES.items():
        with tempfile.TemporaryDirectory() as folder:
            seconds, tokens = asyncio.run(measured(Path(folder), options))
        ideal = tokens * STEP_S / (ENGINES * SLOTS)
        print(f"| `{name}` | {seconds:.1f} | {ideal / seconds:.2f} |", flush=True)


if __name__ == "__main__":
    main()

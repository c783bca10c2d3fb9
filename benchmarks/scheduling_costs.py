"""What the controller itself costs, in seconds of its process: the second table of `scheduling.py`."""

from __future__ import annotations

import asyncio
import gc
import pickle
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
from rich import box
from rich.console import Console
from rich.table import Table

from rlscale.config.compose import compose
from rlscale.config.schema.simulator_config import LengthLaw, LengthsConfig, SimulatedEngineConfig, SimulationConfig
from rlscale.data.buffer import Buffer
from rlscale.data.sample import Group
from rlscale.rollout.rollout_spec import RolloutSpec
from rlscale.rollout.service import RolloutService
from rlscale.run.simulation.simulated_workload import rollout_spec
from rlscale.serve.simulator.simulated_fleet import ROUTER_URL, SimulatedFleet
from rlscale.serve.simulator.virtual_time import VirtualLoop

ENGINES, SLOTS, SAMPLES, QUEUED = 256, 32, 8, 100_000
SHORT, LONG = 100, 1000
"""Tokens of a response: of those that are generated and timed, and of those whose memory is measured."""


def costs(console: Console, quick: bool) -> None:
    """Print the second table."""
    queued = QUEUED // 10 if quick else QUEUED
    table = Table("controller's own cost", "", box=box.MARKDOWN)
    with tempfile.TemporaryDirectory() as folder:
        samples, whole_s, queue_s = _generated(Path(folder), queued)
        engines_s = _engines_alone(samples)
        table.add_row(f"samples under way or waiting, of {SHORT} tokens", f"{queued:,}")
        table.add_row("seconds to queue them all", f"{queue_s:.1f}")
        table.add_row("samples/s of one core, simulated engines included", f"{samples / whole_s:,.0f}")
        table.add_row("samples/s of one core", f"{samples / (whole_s - engines_s):,.0f}")
        size, take_s = _memory(_groups(Path(folder), 128), queued)
    table.add_row(f"bytes of a sample of {LONG} tokens in the buffer", f"{size:,.0f}")
    table.add_row(f"seconds to choose a batch of 1,024 groups among {queued // SAMPLES:,}", f"{take_s:.3f}")
    console.print(table)


def _spec(folder: Path, groups: int, tokens: int) -> tuple[RolloutSpec, SimulationConfig]:
    """On-policy: a batch of so many groups, all of them started at once."""
    words = [f"rollout.groups_per_iteration={groups}", f"rollout.samples_per_group={SAMPLES}", "rollout.sglang={}"]
    config = compose(None, [*words, f"rollout.max_concurrent={SLOTS}", "rollout.request_timeout_s=1e6"])
    lengths = LengthsConfig(law=LengthLaw.log_normal, median=float(tokens), sigma=0.1, prompt_share=0.5)
    engine = SimulatedEngineConfig(slots=SLOTS, lengths=lengths, cache_tokens=10_000_000)
    config = replace(config, rollout=replace(config.rollout, max_response_tokens=2 * tokens))
    simulation = SimulationConfig(engine=engine, engines=ENGINES)
    return rollout_spec(config, simulation, ENGINES, folder), simulation


async def _started(spec: RolloutSpec, simulation: SimulationConfig) -> tuple[RolloutService, SimulatedFleet]:
    fleet = SimulatedFleet(simulation.engine, ENGINES)
    service = RolloutService(spec, fleet.connect)
    await service.start(ROUTER_URL)
    body = {"serialized_named_tensors": ["0"], "weight_version": "0"}
    for url in fleet.urls:
        await fleet.post(url + "/update_weights_from_tensor", body)
    await service.resume(0)
    return service, fleet


def _generated(folder: Path, queued: int) -> tuple[int, float, float]:
    """Samples that were finished while most of `queued` still waited, the seconds for them, and those of queueing."""

    async def main() -> tuple[int, float, float]:
        began = time.process_time()
        service, fleet = await _started(*_spec(folder, queued // SAMPLES, SHORT))
        while fleet.started.begun < ENGINES * SLOTS:
            await asyncio.sleep(0.01)
        queue_s = time.process_time() - began
        gc.collect()
        gc.freeze()
        began, before = time.process_time(), fleet.started.begun  # every slot is taken: one is begun where one ends
        while (made := fleet.started.begun - before) < min(20_000, queued // 2):
            await asyncio.sleep(0.1)
        whole_s = time.process_time() - began
        await service.close()
        return made, whole_s, queue_s

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(main())


def _engines_alone(samples: int) -> float:
    """Seconds that the simulated engines take for so many requests."""
    sampling = {"max_new_tokens": 2 * SHORT, "temperature": 1.0, "stop_token_ids": [3]}

    async def main() -> float:
        lengths = LengthsConfig(law=LengthLaw.log_normal, median=float(SHORT), sigma=0.1, prompt_share=0.5)
        fleet = SimulatedFleet(SimulatedEngineConfig(slots=SLOTS, lengths=lengths, cache_tokens=10_000_000), ENGINES)
        began = time.process_time()
        numbers = iter(range(samples))

        async def slot() -> None:
            for number in numbers:
                body: dict[str, Any] = {"input_ids": [4, 5, 6, 7, 8, 9, 10, 11], "return_logprob": True}
                body["sampling_params"] = {**sampling, "sampling_seed": number}
                await fleet.post(ROUTER_URL + "/generate", body)

        await asyncio.gather(*(slot() for _ in range(ENGINES * SLOTS)))
        return time.process_time() - began

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(main())


def _groups(folder: Path, samples: int) -> list[Group]:
    """Groups as the service makes them, with long responses."""

    async def main() -> list[Group]:
        service, _ = await _started(*_spec(folder, samples // SAMPLES, LONG))
        groups = await service.next_batch()
        await service.close()
        return groups

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(main())


def _memory(groups: list[Group], queued: int) -> tuple[float, float]:
    """Bytes of a sample in a buffer of so many, and the seconds in which a batch is chosen there."""
    saved = [pickle.dumps(group) for group in groups]
    buffer, process = Buffer(), psutil.Process()
    gc.collect()
    before = process.memory_info().rss
    for index in range(queued // SAMPLES):
        group: Group = pickle.loads(saved[index % len(saved)])
        buffer.put(replace(group, prompt=replace(group.prompt, index=index)))
    size = (process.memory_info().rss - before) / (queued // SAMPLES * SAMPLES)
    began = time.process_time()
    buffer.take(1024, 4, 4, [2] * 1024)
    return size, time.process_time() - began

"""What the rollout's controller itself costs: `python benchmarks/scheduling_costs.py`, about two minutes on one core.

The rollout service of a run (scheduler, client, episodes, rewards, accounts) on 256 simulated engines of 32 slots, in
one process and in virtual time, so that nothing is waited for: every second of the process is work. 100,000 samples
wait for their turn all the while. What the simulated engines take for the same requests is measured without a service,
and the rate is given with and without it. HTTP is left out: `request_path.py` measures that.

`--quick` takes an eighth of engines and samples; `--profile` prints where the time goes.
"""

from __future__ import annotations

import argparse
import asyncio
import cProfile
import gc
import pickle
import pstats
import tempfile
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import psutil
from machine import describe_machine, load_average
from rich import box
from rich.console import Console
from rich.table import Table

from rlscale.config.composition.compose import compose
from rlscale.config.schema.simulator_config import LengthLaw, LengthsConfig, SimulatedEngineConfig, SimulationConfig
from rlscale.data.buffer import Buffer
from rlscale.data.sample import Group
from rlscale.rollout.garbage_collection import spare_long_lived
from rlscale.rollout.service import RolloutService
from rlscale.run.simulation.simulated_workload import rollout_spec
from rlscale.serve.simulator.simulated_fleet import ROUTER_URL, SimulatedFleet
from rlscale.serve.simulator.virtual_time import VirtualLoop

T = TypeVar("T")
ENGINES, SLOTS, SAMPLES = 256, 32, 8
QUEUED, TIMED = 100_000, 20_000
"""Samples that wait all the while, and those that are generated meanwhile."""
SHORT, LONG = 100, 1000
"""Tokens of a response: of those that are timed, and of those whose memory is measured."""
BATCH = 1024
"""Groups of the batch that is chosen from a full buffer."""


@dataclass(frozen=True)
class Costs:
    """Seconds and bytes of this process."""

    queue_s: float
    """To draw a prompt and to start a sample, each."""
    sample_s: float
    """To generate and score a sample, each, simulated engines included."""
    waiting_bytes: float
    """Of a sample that waits for its turn."""


def spec_and_fleet(folder: Path, engines: int, groups: int, tokens: int) -> tuple[Any, SimulatedFleet]:
    """On-policy: a batch of so many groups, whose samples wait for their turn at once. Fleet of so many engines."""
    words = [f"rollout.groups_per_iteration={groups}", f"rollout.samples_per_group={SAMPLES}", "rollout.sglang={}"]
    config = compose(None, [*words, f"rollout.max_concurrent={SLOTS}", "rollout.request_timeout_s=1e6"])
    config = replace(config, rollout=replace(config.rollout, max_response_tokens=2 * tokens))
    lengths = LengthsConfig(law=LengthLaw.log_normal, median=float(tokens), sigma=0.1, prompt_share=0.5)
    engine = SimulatedEngineConfig(slots=SLOTS, lengths=lengths, cache_tokens=10_000_000)
    return rollout_spec(config, SimulationConfig(engine=engine), engines, folder), SimulatedFleet(engine, engines)


async def started(spec: Any, fleet: SimulatedFleet) -> RolloutService:
    """The service as a run starts it; it generates after its `resume`."""
    service = RolloutService(spec, fleet.connect)
    await service.start(ROUTER_URL)
    body = {"serialized_named_tensors": ["0"], "weight_version": "0"}
    for url in fleet.urls:
        await fleet.post(url + "/update_weights_from_tensor", body)
    spare_long_lived()
    return service


def generated(folder: Path, engines: int, queued: int, timed: int, watch: cProfile.Profile | None) -> Costs:
    """What samples cost while `queued` others wait."""

    async def main() -> Costs:
        everything = queued + timed + engines * SLOTS
        spec, fleet = spec_and_fleet(folder, engines, -(-everything // SAMPLES), SHORT)
        process = psutil.Process()
        service = await started(spec, fleet)
        before, began = process.memory_info().rss, time.process_time()
        await service.resume(0)
        while fleet.started.begun < engines * SLOTS:
            await asyncio.sleep(0.001)
        queue_s = (time.process_time() - began) / everything
        waiting_bytes = (process.memory_info().rss - before) / everything
        if watch is not None:
            watch.enable()
        began, first = time.process_time(), fleet.started.begun  # every slot is taken: one begins where one ends
        while (made := fleet.started.begun - first) < timed:
            await asyncio.sleep(0.1)
        sample_s = (time.process_time() - began) / made
        if watch is not None:
            watch.disable()
        await service.close()
        gc.unfreeze()
        return Costs(queue_s, sample_s, waiting_bytes)

    return in_virtual_time(main)


def engines_alone(folder: Path, engines: int, samples: int) -> float:
    """Seconds that simulated engines take for a request."""

    async def main() -> float:
        connection = spec_and_fleet(folder, engines, 1, SHORT)[1].connect(None, 1e6, 2 * engines * SLOTS)
        sampling = {"max_new_tokens": 2 * SHORT, "temperature": 1.0, "stop_token_ids": [3]}
        numbers = iter(range(samples))

        async def slot() -> None:
            for number in numbers:
                body: dict[str, Any] = {"input_ids": [4, 5, 6, 7, 8, 9, 10, 11], "return_logprob": True}
                body["sampling_params"] = {**sampling, "sampling_seed": number}
                await connection.post(ROUTER_URL + "/generate", body, {})

        began = time.process_time()
        await asyncio.gather(*(slot() for _ in range(engines * SLOTS)))
        return (time.process_time() - began) / samples

    return in_virtual_time(main)


def groups_of_long_samples(folder: Path, samples: int) -> list[Group]:
    """Groups as the service makes them."""

    async def main() -> list[Group]:
        service = await started(*spec_and_fleet(folder, 2, samples // SAMPLES, LONG))
        await service.resume(0)
        groups = await service.next_batch()
        await service.close()
        return groups

    return in_virtual_time(main)


def buffered(groups: list[Group], queued: int, batch: int) -> tuple[float, float]:
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
    buffer.take(batch, 4, 4, [2] * batch)
    return size, time.process_time() - began


def in_virtual_time(main: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """What it gives."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.get_loop().run_until_complete(main())  # not runner.run: it would write out the result


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--profile", action="store_true")
    arguments = parser.parse_args()
    part = 8 if arguments.quick else 1
    engines, queued, timed, batch = ENGINES // part, QUEUED // part, TIMED // part, BATCH // part
    watch = cProfile.Profile() if arguments.profile else None
    console = Console(width=150)
    console.print(", ".join(f"{name} {value}" for name, value in describe_machine().items()), f"load {load_average()}")
    with tempfile.TemporaryDirectory() as folder:
        groups = groups_of_long_samples(Path(folder), 128)
        size, take_s = buffered(groups, queued, batch)
        costs = generated(Path(folder), engines, queued, timed, watch)
        engine_s = engines_alone(Path(folder), engines, timed)
    whole = costs.queue_s + costs.sample_s
    table = Table(f"{engines} engines x {SLOTS} slots, {queued:,} samples queued", "", box=box.MARKDOWN)
    table.add_row(f"samples/s of one core, {SHORT} tokens each", f"{1 / (whole - engine_s):,.0f}")
    table.add_row("the same with the simulated engines' work", f"{1 / whole:,.0f}")
    table.add_row("ms for a sample: to start it", f"{1e3 * costs.queue_s:.3f}")
    table.add_row("ms for a sample: to generate and score it", f"{1e3 * (costs.sample_s - engine_s):.3f}")
    table.add_row("ms for a sample: its simulated engine", f"{1e3 * engine_s:.3f}")
    table.add_row("bytes of a sample that waits for its turn", f"{costs.waiting_bytes:,.0f}")
    table.add_row(f"bytes of a sample of {LONG} tokens in the buffer", f"{size:,.0f}")
    table.add_row(f"s to choose a batch of {batch:,} groups of {queued // SAMPLES:,}", f"{take_s:.3f}")
    console.print(table)
    if watch is not None:
        pstats.Stats(watch).sort_stats("tottime").print_stats(40)


if __name__ == "__main__":
    main()

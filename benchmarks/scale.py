"""Whether a large run is only larger: the rollout's service, buffer and supervisor at three sizes, ten times apart.

    python benchmarks/scale.py [--sizes 100x10000,300x30000,1000x100000] [--parts service,supervisor]

A size is engines x groups. `service`: the rollout service of a run on simulated engines, in one process and in virtual
time, so that every second is work: a batch of all groups at once, and with staleness four batches of a quarter of them.
`supervisor`: one supervisor in real time over simulated engines behind HTTP, each with a process of its own that can be
killed or stopped; a tenth of them is killed at once, then another tenth stopped. That many engines on one machine are
more than any has. `healing`: what the driver does when a tenth of the engines of as many machines as it takes, eight on
each, has ended: with launchers that take a second for a restart and a millisecond for an answer.

CPU seconds of the process that makes the call, without the passes of Python's garbage collector: they fall into
whatever call makes the object that starts one, and have a row of their own for each kind of run. The last column is the
exponent of the size by which a figure grows: 1 is in proportion. Each size runs in a process of its own.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import math
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import psutil
from machine import describe_machine, load_average
from rich import box
from rich.console import Console
from rich.table import Table
from scale_engines import SimulatedEngines
from scheduling_costs import in_virtual_time, started

from rlscale.config.composition.compose import compose
from rlscale.config.schema.engine_group_config import Role
from rlscale.config.schema.simulator_config import LengthLaw, LengthsConfig, SimulatedEngineConfig, SimulationConfig
from rlscale.rollout.garbage_collection import spare_long_lived
from rlscale.rollout.service import RolloutService
from rlscale.run.sides.engine_records import Engine
from rlscale.run.sides.engines import Engines
from rlscale.run.simulation.simulated_workload import rollout_spec
from rlscale.serve.simulator.simulated_fleet import SimulatedFleet
from rlscale.serve.supervisor import DIED

SIZES = "100x10000,300x30000,1000x100000"
SLOTS, SAMPLES, TOKENS = 8, 2, 16
STALENESS, BATCHES = 3, 4
"""Of the second kind of run: how many versions groups may be old, and how many batches all groups are."""
SILENT_S = 6.0
"""How long an engine may not answer before it counts as stuck."""
LIMIT_S = 300.0
PER_MACHINE, RESTART_S, ANSWER_S = 8, 1.0, 0.001


class Collector:
    """How long the passes of Python's garbage collector took, from the block's beginning on."""

    def __init__(self) -> None:
        self.seconds = 0.0
        """CPU seconds of all passes so far."""
        self._began = 0.0

    def __enter__(self) -> Collector:
        gc.callbacks.append(self._heed)
        return self

    def __exit__(self, *_: object) -> None:
        gc.callbacks.remove(self._heed)

    def _heed(self, phase: str, told: Mapping[str, int]) -> None:
        if phase == "start":
            self._began = time.process_time()
        else:
            self.seconds += time.process_time() - self._began


COLLECTOR = Collector()


def cpu_s() -> float:
    """Of this process so far, without the passes of the garbage collector."""
    return time.process_time() - COLLECTOR.seconds


def rss() -> float:
    """Bytes of memory of this process."""
    return float(psutil.Process().memory_info().rss)


class Timed:
    """Figures by name: the CPU seconds that calls took."""

    def __init__(self) -> None:
        self.found: dict[str, float] = {}

    async def call(self, name: str, made: Coroutine[Any, Any, Any]) -> Any:
        """What the call gives; its seconds are written down, of several the longest."""
        began = cpu_s()
        result = await made
        self.found[name] = max(self.found.get(name, 0.0), cpu_s() - began)
        return result


def service_of(folder: Path, engines: int, batch: int, staleness: int) -> tuple[Any, SimulatedFleet]:
    """What a service is made of, and its engines."""
    words = [f"rollout.groups_per_iteration={batch}", f"rollout.samples_per_group={SAMPLES}", "rollout.sglang={}"]
    words += [f"rollout.max_concurrent={SLOTS}", "rollout.request_timeout_s=1e6"]
    words += [f"rollout.max_staleness={staleness}"] if staleness else []
    config = compose(None, words)
    config = replace(config, rollout=replace(config.rollout, max_response_tokens=2 * TOKENS))
    lengths = LengthsConfig(law=LengthLaw.log_normal, median=float(TOKENS), sigma=0.3, prompt_share=0.5)
    engine = SimulatedEngineConfig(slots=SLOTS, lengths=lengths, cache_tokens=10_000_000)
    return rollout_spec(config, SimulationConfig(engine=engine), engines, folder), SimulatedFleet(engine, engines)


def one_batch(folder: Path, engines: int, groups: int) -> dict[str, float]:
    """A batch of all groups, on-policy: everything is drawn at once, and the trainer waits for the last."""

    async def main() -> dict[str, float]:
        timed, prefix = Timed(), "one batch: "
        spec, fleet = service_of(folder, engines, groups, 0)
        service = await started(spec, fleet)
        before, began, passes = rss(), cpu_s(), COLLECTOR.seconds
        await service.resume(0)
        waiting = asyncio.create_task(service.next_batch())
        while fleet.started.begun < groups * SAMPLES // 2:
            await asyncio.sleep(0.001)
        await timed.call(prefix + "stats, half way", service.stats())
        state = await timed.call(prefix + "state_dict, half way", service.state_dict())
        await waiting
        timed.found[prefix + "generate, take"] = cpu_s() - began - sum(timed.found.values())
        timed.found[prefix + "garbage collector until here"] = COLLECTOR.seconds - passes
        timed.found[prefix + "memory at its end"] = rss() - before
        await timed.call(prefix + "stats", service.stats())
        await timed.call(prefix + "state_dict", service.state_dict())
        await timed.call(prefix + "pause", service.pause())
        await service.close()
        again: RolloutService = await started(spec, service_of(folder, engines, groups, 0)[1])
        await timed.call(prefix + "load_state_dict", again.load_state_dict(state))
        await again.close()
        return timed.found

    return in_virtual_time(main)


def four_batches(folder: Path, engines: int, groups: int) -> dict[str, float]:
    """Batches of a quarter, with staleness: the next one is generated while the trainer has one."""

    async def main() -> dict[str, float]:
        timed, prefix = Timed(), "four batches: "
        spec, fleet = service_of(folder, engines, groups // BATCHES, STALENESS)
        service = await started(spec, fleet)
        began, passes = cpu_s(), COLLECTOR.seconds
        await service.resume(0)
        for version in range(1, BATCHES + 1):
            await service.next_batch()
            await timed.call(prefix + "stats", service.stats())
            await timed.call(prefix + "state_dict", service.state_dict())
            await timed.call(prefix + "pause", service.pause())
            body = {"serialized_named_tensors": [str(version)], "weight_version": str(version)}
            for url in fleet.urls:
                await fleet.post(url + "/update_weights_from_tensor", body)
            await timed.call(prefix + "resume", service.resume(version))
            await asyncio.sleep(1e6)  # so long that a whole batch is ready
            await timed.call(prefix + "state_dict, a batch ready", service.state_dict())
        await timed.call(prefix + "next_batch, a batch ready", service.next_batch())
        timed.found[prefix + "all"] = cpu_s() - began
        timed.found[prefix + "garbage collector, all"] = COLLECTOR.seconds - passes
        await service.close()
        return timed.found

    return in_virtual_time(main)


def supervised(folder: Path, engines: int, groups: int) -> dict[str, float]:
    """What a supervisor of so many engines takes, and when it notices that a tenth of them is gone."""
    with SimulatedEngines(folder, engines) as fleet:
        found = {"supervisor: memory": rss() - fleet.memory_before}
        looks, began = [], time.monotonic()
        while time.monotonic() - began < 2 * SILENT_S:
            at = cpu_s()
            assert not fleet.supervisor.down(SILENT_S), "nobody is down yet"
            looks.append(cpu_s() - at)
            time.sleep(0.1)
        found["supervisor: a look, longest"] = max(looks)
        found["supervisor: a second of looking"] = sum(looks) / (time.monotonic() - began)
        tenth = engines // 10
        found["supervisor: s on the clock to notice the killed"] = noticed(fleet, fleet.kill, range(tenth))
        found["supervisor: s on the clock to notice the stopped"] = noticed(
            fleet, fleet.freeze, range(tenth, 2 * tenth)
        )
        return found


def noticed(fleet: SimulatedEngines, harm: Callable[[Sequence[int]], None], which: Sequence[int]) -> float:
    """Seconds until the supervisor has named all engines that are harmed; it must name no other."""
    before = set(fleet.supervisor.down(SILENT_S))
    wanted = {fleet.name(number) for number in which}
    began = time.monotonic()
    harm(which)
    while time.monotonic() - began < LIMIT_S:
        told = set(fleet.supervisor.down(SILENT_S)) - before
        assert told <= wanted, f"{len(told - wanted)} others are called down"
        if told == wanted:
            return time.monotonic() - began
        time.sleep(0.1)
    raise TimeoutError(f"{len(told)} of {len(wanted)} noticed within {LIMIT_S:g} s")


class Machine:
    """In the place of a launcher: its engines, eight calls at a time."""

    def __init__(self) -> None:
        self.call = self
        self.ended: set[str] = set()
        self._threads = ThreadPoolExecutor(8)

    def remote(self, method: str, *arguments: Any) -> Future[Any]:
        """See Ray."""
        return self._threads.submit(self._answer, method, *arguments)

    def _answer(self, method: str, *arguments: Any) -> Any:
        time.sleep(ANSWER_S if method == "down" else RESTART_S)
        if method == "down":
            return dict.fromkeys(self.ended, DIED)
        self.ended.discard(arguments[0])
        return f"http://{arguments[0]}"


def healed(folder: Path, engines: int, groups: int) -> dict[str, float]:
    """What the driver takes to bring a tenth of the engines back that ended at once, and to see that all is well."""
    calls: Any = SimpleNamespace(patience_s=SILENT_S, stopping=False, check_stop=lambda: None)
    calls.one = lambda call, *_, **__: call.result()
    calls.wait = lambda made, *_, **__: [call.result() for call in made]
    none: Any = None
    words = [f"rollout.engines={engines}"]
    fleet = Engines(compose(None, words), none, [], calls, folder, folder, lambda note: None)
    fleet._launchers = {number: Machine() for number in range(math.ceil(engines / PER_MACHINE))}
    for number in range(engines):
        spec: Any = SimpleNamespace(name=f"engine-{number}", role=Role.regular, tensor_parallel=1)
        fleet._engines.append(Engine(spec, fleet._launchers[number // PER_MACHINE], f"http://engine-{number}"))
    router: Any = SimpleNamespace(add=lambda url, role, meanwhile: None, remove=lambda url: None)
    fleet._router_client = lambda: router  # type: ignore[method-assign]  # nobody listens here
    found = {}
    for name, ended in (("nobody down", 0), ("a tenth down", engines // 10)):
        for number in random.Random(7).sample(range(engines), ended):
            fleet._launchers[number // PER_MACHINE].ended.add(f"engine-{number}")
        began, took = time.monotonic(), cpu_s()
        fleet.heal(lambda urls: None, lambda url: None)
        found[f"healing, {name}: s on the clock"] = time.monotonic() - began
        found[f"healing, {name}"] = cpu_s() - took
    return found


PARTS = {"service": (one_batch, four_batches), "supervisor": (supervised,), "healing": (healed,)}


def exponent(sizes: Sequence[float], figures: Sequence[float]) -> float:
    """By which power of the size a figure grows, by least squares of the logarithms."""
    return float(np.polyfit(np.log(sizes), np.log(np.maximum(figures, 1e-9)), 1)[0])


def text_of(name: str, figure: float) -> str:
    """A figure as a cell."""
    return f"{figure / 1e6:,.0f} MB" if "memory" in name else f"{figure:.4f}"


def measured(part: str, size: tuple[int, int]) -> dict[str, float]:
    """The figures of a part at a size, of another process."""
    words = ["--one", part, *map(str, size)]
    done = subprocess.run([sys.executable, __file__, *words], stdout=subprocess.PIPE, text=True, check=True)
    print(f"{part} {size}: {done.stdout.splitlines()[-1]}", file=sys.stderr, flush=True)  # the table comes late
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    """Print a table for each part."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default=SIZES)
    parser.add_argument("--parts", default=",".join(PARTS))
    parser.add_argument("--one", nargs=3, metavar=("PART", "ENGINES", "GROUPS"), help="only this, as JSON")
    options = parser.parse_args()
    if options.one:
        found: dict[str, float] = {}
        spare_long_lived()  # as the process of a run's rollout does when it begins
        for measure in PARTS[options.one[0]]:
            with tempfile.TemporaryDirectory() as folder, COLLECTOR:
                found |= measure(Path(folder), int(options.one[1]), int(options.one[2]))
        print(json.dumps(found))
        return
    sizes = [tuple(map(int, size.split("x"))) for size in options.sizes.split(",")]
    console = Console(width=150)
    console.print(", ".join(f"{name} {value}" for name, value in describe_machine().items()), f"load {load_average()}")
    for part in options.parts.split(","):
        heads = [f"{engines:,} engines, {groups:,} groups" for engines, groups in sizes]
        table = Table(part, *heads, "exponent", box=box.MARKDOWN)
        found_at = [measured(part, (engines, groups)) for engines, groups in sizes]
        for name in found_at[0]:
            figures = [found[name] for found in found_at]
            grows = exponent([engines for engines, _ in sizes], figures)
            table.add_row(name, *(text_of(name, figure) for figure in figures), f"{grows:.2f}")
        console.print(table)


if __name__ == "__main__":
    main()

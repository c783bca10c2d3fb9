"""What schedules come to: `python benchmarks/scheduling.py`; with `--quick` about four minutes on one core.

The table is the loop, rollout service and buffer of a run on simulated engines, in virtual time, so it is the
same on every machine. `of the ideal` compares devices: those that the work of a batch would keep busy, over those that
the schedule holds for as long as an iteration takes. Trainer and engines that share the devices train for half of the
time in which full engines generate a batch; where each have their own the trainer has half as many as the engines and
takes as long as they, so every schedule gets the same work and equal devices. `mean length` is that of the trained
samples over that of those whose turn these iterations were, after ten others, with its standard error where these are
any ten or twenty. With `wait`, whose batches come in waves of k + 1 iterations, they are whole waves.

`--quick` takes a quarter of the engines and fewer iterations; `--only PATTERN` the schedules
whose names match.
"""

from __future__ import annotations

import argparse
import re
import time
from dataclasses import dataclass

from machine import describe_machine, load_average
from rich import box
from rich.console import Console
from rich.table import Table

from rlscale.config.composition.compose import compose
from rlscale.config.simulator_options import read_simulation
from rlscale.run.simulation.simulate import Simulated, simulate

ENGINES, SLOTS, SAMPLES = 64, 32, 8
MEDIAN, CAP = 200, 20
WORK = 1.5
"""Time of all devices for a batch, in times of ideal generation: that, and half as much of training."""


@dataclass(frozen=True)
class Schedule:
    """One row of the table."""

    name: str
    words: tuple[str, ...]
    own_devices: bool = True
    wave: int = 1
    """Iterations after which it is again as it was: what is under way at both ends of whole waves is alike."""

    def iterations(self, about: int) -> int:
        """Whole waves, about so many iterations."""
        return max(round(about / self.wave), 1) * self.wave

    @property
    def devices(self) -> float:
        """Those that it holds, in numbers of engines."""
        return WORK if self.own_devices else 1.0


def _stale(k: int, stale: str) -> Schedule:
    words = (f"rollout.max_staleness={k}", f"rollout.stale={stale}", "rollout.on_sync=abort_and_resume")
    return Schedule(f"asynchronous, k={k}, {stale}", words, wave=k + 1 if stale == "wait" else 1)


SCHEDULES = [
    Schedule("synchronous", (), own_devices=False),
    Schedule(
        "partial, 2x",
        (
            *("rollout.max_staleness=4", "rollout.over_sampling=2", "rollout.stale=mask"),
            "rollout.on_sync=abort_and_resume",
        ),
        own_devices=False,
    ),
    Schedule("one step off", ("rollout.max_staleness=1", "rollout.stale=wait")),
    *(_stale(k, stale) for k in (4, 8) for stale in ("wait", "drop", "mask")),
]


def words_of(schedule: Schedule, engines: int, iterations: int, warm_up: int) -> tuple[list[str], list[str]]:
    """Of the recipe and of the simulator."""
    groups = engines * SLOTS // SAMPLES
    recipe = [
        f"rollout.groups_per_iteration={groups}",
        f"rollout.samples_per_group={SAMPLES}",
        f"rollout.max_response_tokens={MEDIAN * CAP}",
        f"rollout.max_concurrent={SLOTS}",
        "rollout.sglang={}",
        "rollout.router.policy=power_of_two",
        *(["cluster.placement=disaggregated"] if schedule.own_devices else []),
        *schedule.words,
    ]
    simulator = [
        f"simulator.engines={engines}",
        f"simulator.engine.slots={SLOTS}",
        "simulator.engine.decode_s=0.08",
        "simulator.engine.half_batch=64",
        "simulator.engine.prefill_tokens_per_s=1e9",
        f"simulator.training_share={1.0 if schedule.own_devices else 0.5}",
        f"simulator.iterations={iterations}",
        f"simulator.warm_up={warm_up}",
        "lengths=log_normal",
        f"simulator.engine.lengths.median={MEDIAN}",
        f"simulator.engine.lengths.cap={CAP}",
    ]
    return recipe, simulator


def run(schedule: Schedule, engines: int, iterations: int, warm_up: int = 10) -> Simulated:
    """Simulate one schedule."""
    recipe, simulator = words_of(schedule, engines, iterations, warm_up)
    config = compose(None, recipe)
    return simulate(config, read_simulation(simulator, config))


def of_the_ideal(schedule: Schedule, found: Simulated) -> float:
    """Work of a batch over what its devices could have done in an iteration."""
    return WORK * found.ideal_s / (schedule.devices * found.iteration_s)


def schedules(console: Console, engines: int, iterations: int, only: str) -> None:
    """Print it."""
    console.print(
        f"{engines} engines x {SLOTS} slots, {engines * SLOTS // SAMPLES} groups x {SAMPLES}; lengths log-normal, "
        f"sigma 1, median {MEDIAN}, capped at {CAP} x; a step of b requests takes 0.08 s x (1 + b / 64); "
        f"about {iterations} iterations after 10 (`wait`: whole waves of k + 1)"
    )
    titles = ("schedule", "of the ideal", "x synchronous", "mean length", "lost", "masked", "staleness mean", "slots")
    table = Table(*titles, "CPU s", box=box.MARKDOWN)
    rate: float | None = None
    for schedule in SCHEDULES:
        if not re.search(only, schedule.name):
            continue
        began = time.process_time()
        found = run(schedule, engines, schedule.iterations(iterations))
        share = of_the_ideal(schedule, found)
        rate = rate or share
        tokens = sum(found.staleness.values())
        age = sum(age * count for age, count in found.staleness.items()) / tokens
        table.add_row(
            schedule.name,
            f"{share:.2f}",
            f"{share / rate:.2f}",
            f"{found.length_ratio:.3f} ± {found.length_error:.3f}",
            f"{found.lost:.1%}",
            f"{found.masked:.1%}",
            f"{age:.2f}",
            f"{found.slots_taken:.2f}",
            f"{time.process_time() - began:.0f}",
        )
        console.log(schedule.name, f"{share:.3f}", f"{found.length_ratio:.3f} ± {found.length_error:.3f}")
    console.print(table)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", default="", metavar="PATTERN")
    arguments = parser.parse_args()
    console = Console(width=150)
    console.print(", ".join(f"{name} {value}" for name, value in describe_machine().items()), f"load {load_average()}")
    schedules(console, ENGINES // 4 if arguments.quick else ENGINES, 10 if arguments.quick else 20, arguments.only)


if __name__ == "__main__":
    main()

"""What it costs to start a program in the sandbox: `python benchmarks/sandbox.py`, some seconds on one core.

`/bin/true` with and without the sandbox, and Python printing a number in it, `--starts` times each. Wall time is what a
reward waits; processor time is that of all processes of a start, and does not depend on what else the machine does.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from machine import describe_machine, load_average
from rich import box
from rich.console import Console
from rich.table import Table

from rlscale.envs.sandbox.program import NONE, REQUIRED, Sandbox

PYTHON = str(Path(sys.executable).resolve())
CASES = {
    "/bin/true in the sandbox": (REQUIRED, ["/bin/true"]),
    "/bin/true without it": (NONE, ["/bin/true"]),
    "Python in the sandbox": (REQUIRED, [PYTHON, "-I", "-S", "-c", "print(42)"]),
}


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description="Benchmark of the sandbox's starts.")
    parser.add_argument("--starts", type=int, default=50)
    starts = parser.parse_args().starts
    before = load_average()
    table = Table("a start of", "wall ms, median", "wall ms, shortest", "processor ms, mean", box=box.MARKDOWN)
    for name, (mode, command) in CASES.items():
        table.add_row(name, *(f"{1000 * value:.1f}" for value in _measure(mode, command, starts)))
    machine = Table("machine", "", box=box.MARKDOWN)
    for key, value in {**describe_machine(), "load average at start, at end": f"{before}, {load_average()}"}.items():
        machine.add_row(key, value)
    console = Console(width=140)
    console.print(machine)
    console.print(table)


def _measure(mode: str, command: Sequence[str], starts: int) -> tuple[float, float, float]:
    """Median and shortest wall seconds of a start, and its mean processor seconds."""
    sandbox = Sandbox(mode, readable=[sys.base_prefix])
    sandbox.run(command)
    before, times = _children_s(), []
    for _ in range(starts):
        started = time.perf_counter()
        ran = sandbox.run(command)
        times.append(time.perf_counter() - started)
        if not ran.ended_well:
            raise RuntimeError(f"{command[0]} ended with {ran}")
    return statistics.median(times), min(times), (_children_s() - before) / starts


def _children_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    os.chdir("/")
    main()

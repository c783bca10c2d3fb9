"""The machine that a benchmark ran on, in the few facts that its figures depend on."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import psutil

_PACKAGES = ("torch", "transformers", "megatron-core", "sglang", "ray")


def describe_machine() -> dict[str, str]:
    """Name and value of each fact, for a table."""
    return {
        "CPU": _cpu_model(),
        "cores": str(len(os.sched_getaffinity(0))),
        "memory": f"{psutil.virtual_memory().total / 1e9:.0f} GB",
        "Python": platform.python_version(),
    } | {package: version(package) for package in _PACKAGES}


def load_average() -> str:
    """Processes that wanted to run, mean of the last 1, 5 and 15 minutes."""
    return " ".join(f"{load:.2f}" for load in os.getloadavg())


def milliseconds(times: int, *ways: Callable[[], object]) -> list[float]:
    """CPU time of each way in turns, the middle of so many after a first time."""
    took: list[list[float]] = [[] for _ in ways]
    for _ in range(times + 1):
        for way, found in zip(ways, took, strict=True):
            began = time.process_time()
            way()
            found.append(1000 * (time.process_time() - began))
    return [statistics.median(found[1:]) for found in took]


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.machine()

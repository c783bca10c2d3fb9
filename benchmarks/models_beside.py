"""What models beside the policy cost a small CPU run: seconds until the loop begins, and memory of all its processes.

The default recipe without its warm start, with none, one and two further models of the policy's size, each on one
engine behind a router of its own. `python benchmarks/models_beside.py [runs]`: the ways take turns. Memory is the sum
of proportional set sizes (pages that processes share are counted once) once the first iteration is over.
"""

from __future__ import annotations

import contextlib
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

RUN = (
    *("rollout.groups_per_iteration=4", "rollout.samples_per_group=4", "run.iterations=40", "eval.enabled=false"),
    *("checkpoint.every=0", "warm_start=null", "run.progress=plain", "cluster.max_engines=3"),
)
RLSCALE = [sys.executable, "-m", "rlscale"]
MODELS = ("judge", "other")


def main() -> None:
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 1
    found: dict[int, list[tuple[float, float]]] = {number: [] for number in range(len(MODELS) + 1)}
    with tempfile.TemporaryDirectory(prefix="models-") as name:
        for turn in range(runs):
            for number in found:
                found[number].append(measured(Path(name), f"{turn}-{number}", MODELS[:number]))
    print("| models beside the policy | until the first iteration, s | memory, MB |")
    print("|--:|--:|--:|")
    for number, told in found.items():
        seconds, memory = (statistics.median(column) for column in zip(*told, strict=True))
        print(f"| {number} | {seconds:.1f} | {memory / 1e6:,.0f} |")


def measured(folder: Path, name: str, models: tuple[str, ...]) -> tuple[float, float]:
    """Seconds until the loop began, and bytes of the processes in it."""
    output = folder / name
    given = [f"rollout.models.{model}.follows_policy=true" for model in models]
    with open(folder / f"{name}.log", "w") as log:
        process = subprocess.Popen([*RLSCALE, *RUN, *given, f"run.output={output}"], cwd=folder, stdout=log, stderr=log)
    while "iteration 1/" not in (said := (folder / f"{name}.log").read_text()):
        assert process.poll() is None, said
        time.sleep(0.05)
    memory = float(sum(proportional(one) for one in psutil.Process(process.pid).children(recursive=True)))
    assert process.wait() == 0
    return float(json.loads((output / "summary.json").read_text())["startup_seconds"]), memory


def proportional(process: psutil.Process) -> int:
    with contextlib.suppress(psutil.NoSuchProcess):
        return int(process.memory_full_info().pss)
    return 0


if __name__ == "__main__":
    main()

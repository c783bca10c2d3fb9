"""Where the time of an iteration goes, and how fast weights are synced: read from the metrics of a real run."""

from __future__ import annotations

import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rlscale.observe import jsonl

PHASES = ("generate", "train", "sync", "other")
SKIPPED = 2
"""Iterations at the start that do not count: caches and memory pools fill."""
_DEADLINE_S = 330.0
_STOP_S = 20.0


@dataclass(frozen=True)
class RunPhases:
    """What a run's metrics say, the first iterations left out."""

    iterations: int
    seconds: dict[str, float]
    """Mean seconds of an iteration in each of PHASES; they add up to its wall time."""
    batch_tokens: float
    """Mean tokens trained on in an iteration."""
    sync_bytes: float
    """Bytes of one weight sync."""
    phase_rate: float
    """Median over the syncs of bytes over the whole sync phase, bytes/s."""
    transfer_rate: float
    """Median over the syncs of bytes over the trainer's own time for sending them, bytes/s."""

    @property
    def total(self) -> float:
        """Mean wall seconds of an iteration."""
        return sum(self.seconds.values())

    def share(self, phase: str) -> float:
        """Part of an iteration's wall time, 0..1."""
        return self.seconds[phase] / self.total


def measure_run(folder: Path, overrides: Sequence[str]) -> RunPhases:
    """Run `python -m rlscale` in `folder` with these overrides and read its metrics. RuntimeError if it fails."""
    output = folder / "run"
    run(folder, [*overrides, f"run.output={output}"])
    lines = jsonl.read(output / "metrics.jsonl")
    measured = [line for line in lines if line["iteration"] > SKIPPED and "seconds_loop" in line]
    seconds = {phase: statistics.fmean(line[f"seconds_{phase}"] for line in measured) for phase in PHASES}
    syncs = [line for line in measured if "sync_bytes" in line]
    return RunPhases(
        iterations=len(measured),
        seconds=seconds,
        batch_tokens=statistics.fmean(line["batch_tokens"] for line in measured),
        sync_bytes=syncs[-1]["sync_bytes"],
        phase_rate=statistics.median(line["sync_bytes"] / line["seconds_sync"] for line in syncs),
        transfer_rate=statistics.median(line["sync_bytes"] / line["sync_seconds"] for line in syncs),
    )


def measure_copy(size: int, repeats: int = 30) -> float:
    """Bytes/s of a plain copy of `size` bytes in memory, one thread; the median of several."""
    import torch

    torch.set_num_threads(1)
    source, target = torch.ones(size, dtype=torch.uint8), torch.zeros(size, dtype=torch.uint8)
    seconds = []
    for _ in range(repeats):
        began = time.perf_counter()
        target.copy_(source)
        seconds.append(time.perf_counter() - began)
    return size / statistics.median(seconds)


def run(folder: Path, overrides: Sequence[str]) -> None:
    """The command line, to its end; whatever happens here, it is over when this returns."""
    log = folder / "console.log"
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    with log.open("w") as console:
        process = subprocess.Popen(
            [sys.executable, "-m", "rlscale", *overrides],
            cwd=folder,
            env=environment,
            stdout=console,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            code = process.wait(_DEADLINE_S)
        finally:
            _end(process)
    if code != 0:
        raise RuntimeError(f"python -m rlscale ended with {code}:\n" + "\n".join(log.read_text().splitlines()[-20:]))


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ask the run to stop, which ends its engines and ranks; after a while end it by force."""
    if process.poll() is not None:
        return
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(_STOP_S)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()

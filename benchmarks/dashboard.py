"""How the dashboard opens a long run: time until curves, groups and lanes are there, and the memory of its server.

    python benchmarks/dashboard.py [iterations=100000] [metrics=100] [gigabytes=10]

Writes one run of that many iterations with so many metrics each, which has stored rollouts of that size in all, 256
samples an iteration (real files, one written and then copied), then opens it over HTTP as the page does. TMPDIR needs
the room, which is given back. What else the machine does is in the load that is printed.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from rlscale.config.schema.rollout_config import Store
from rlscale.dashboard.found_runs import run_id
from rlscale.data.sample import Group, Prompt, Sample
from rlscale.data.stored.stored_rollouts import FOLDER, RolloutStore

DEFAULTS = {"iterations": 100_000, "metrics": 100, "gigabytes": 10}


def write_run(folder: Path, iterations: int, metrics: int, gigabytes: float) -> int:
    """The files of such a run; the last iteration whose rollouts are stored."""
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps({"recipe": "long", "state": "finished"}))
    noise = np.random.default_rng(0).normal(size=(1000, metrics)).tolist()
    names = ["reward", "entropy", "loss", "grad_norm", *(f"metric_{n}" for n in range(metrics - 4))]
    rows = [json.dumps(dict(zip(names, values, strict=True)))[1:] for values in noise]
    with open(folder / "metrics.jsonl", "w") as log, open(folder / "timeline.jsonl", "w") as spans:
        for i in range(1, iterations + 1):
            log.write(f'{{"iteration": {i}, "time": {1e9 + 2.0 * i}, {rows[i % 1000]}\n')
            for name, lane, start, end in (
                ("generate", "driver", 0.0, 1.0),
                ("train", "driver", 1.0, 1.8),
                ("sync", "driver", 1.8, 2.0),
                ("generate", "engines", 0.0, 1.0),
            ):
                at = 1e9 + 2.0 * i
                spans.write(f'{{"name": "{name}", "lane": "{lane}", "start": {at + start}, "end": {at + end}}}\n')
    return store_rollouts(folder, gigabytes)


def store_rollouts(folder: Path, gigabytes: float) -> int:
    """Rollouts of the first iteration as a run writes them (256 samples), and copies of them; the last iteration."""
    prompts = [Prompt(n, f"p{n}", np.arange(100, dtype=np.int32), None) for n in range(32)]
    rng = np.random.default_rng(1)
    groups = []
    for prompt in prompts:
        lengths = rng.integers(500, 4000, 8)
        samples = [
            Sample.from_response(prompt, i, rng.integers(0, 1000, n).astype(np.int32), np.zeros(n, np.float32), 1)
            for i, n in enumerate(lengths)
        ]
        for sample in samples:
            sample.reward = float(rng.integers(0, 2))
        groups.append(Group(prompt, samples))
    RolloutStore(folder / FOLDER, Store.all, 32, 1.0).write(1, 1, groups)
    (first,) = (folder / FOLDER).glob("iteration_000001.*")
    last = max(1, round(gigabytes * 1e9 / first.stat().st_size))
    for iteration in range(2, last + 1):
        shutil.copyfile(first, first.with_name(f"iteration_{iteration:06d}{first.suffix}"))
    return last


def main() -> None:
    """Write, open, print."""
    given = {**DEFAULTS, **{key: int(value) for key, _, value in (word.partition("=") for word in sys.argv[1:])}}
    root = Path(tempfile.mkdtemp(prefix="dashboard-", dir=os.environ.get("TMPDIR")))
    try:
        folder = root / "long" / "run"
        stored = write_run(folder, given["iterations"], given["metrics"], given["gigabytes"])
        size = sum((folder / name).stat().st_size for name in ("metrics.jsonl", "timeline.jsonl")) / 1e6
        kept = sum(file.stat().st_size for file in (folder / FOLDER).iterdir()) / 1e9
        print(
            f"{given}: metrics and timeline of {size:,.0f} MB, rollouts of {stored:,} iterations, {kept:.1f} GB",
            f"load of the machine's {os.cpu_count()} cores: {os.getloadavg()[0]:.1f}",
            sep="\n",
            flush=True,
        )
        measure(root, run_id(folder.resolve()), stored)
    finally:
        shutil.rmtree(root)


def measure(root: Path, run: str, stored: int) -> None:
    """Time and memory of a server over that folder."""
    command = [sys.executable, "-m", "rlscale", "dashboard", str(root)]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    try:
        server.stdout.readline()
        base, _, key = server.stdout.readline().strip().partition("/?key=")

        def ask(path: str) -> Any:
            request = urllib.request.Request(f"{base}/api/{path}", headers={"Authorization": f"Bearer {key}"})
            with urllib.request.urlopen(request, timeout=60) as answer:
                return json.load(answer)

        process, began = psutil.Process(server.pid), time.perf_counter()
        idle = sum(process.cpu_times()[:2])

        def after() -> str:
            return f"{time.perf_counter() - began:.2f} s, {sum(process.cpu_times()[:2]) - idle:.2f} s of computing"

        ask("runs")
        ask(f"runs/{run}/about")
        for metric in ("reward", "entropy", "loss", "grad_norm"):
            assert len(ask(f"runs/{run}/curve?metric={metric}&points=600")["x"]) > 100
        print(f"curves of the whole run after {after()}", flush=True)
        assert len(ask(f"runs/{run}/groups")["groups"]) == 32
        ask(f"runs/{run}/sample?iteration={stored}&row=3")
        ask(f"runs/{run}/timeline")
        print(f"groups, tokens and lanes after {after()}: all that the page shows", flush=True)
        while ask(f"runs/{run}/about")["read"] < 1:
            time.sleep(0.1)
        print(f"every number read after {after()}", flush=True)
        looked = time.perf_counter()
        ask(f"runs/{run}/curve?metric=reward&points=600")
        ask(f"runs/{run}/timeline?from=0&to=200000")
        print(f"then a curve and all lanes in {time.perf_counter() - looked:.2f} s")
        print(f"server: {peak_memory(server.pid) / 1e6:.0f} MB at most")
    finally:
        server.terminate()
        server.wait()


def peak_memory(pid: int) -> int:
    """Bytes of memory that a process had at most."""
    told = Path(f"/proc/{pid}/status").read_text().splitlines()
    (peak,) = (line.split()[1] for line in told if line.startswith("VmHWM:"))
    return 1024 * int(peak)


if __name__ == "__main__":
    main()

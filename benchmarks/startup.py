"""How long a small CPU run takes from the command to its end: started anew, and from the processes of `warm`.

Two iterations of the default recipe without its warm start, on an engine of the run's own. `python
benchmarks/startup.py [runs]`: the two take turns, so that whatever else the machine does falls on both.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

RUN = (
    *("rollout.groups_per_iteration=4", "rollout.samples_per_group=4", "run.iterations=2", "eval.enabled=false"),
    *("checkpoint.every=0", "warm_start=null", "run.progress=plain"),
)
RLSCALE = [sys.executable, "-m", "rlscale"]


def main() -> None:
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    with tempfile.TemporaryDirectory(prefix="startup-") as name:
        folder = Path(name)
        warm = subprocess.Popen(
            [*RLSCALE, "warm", f"file={folder / 'warm.json'}"], cwd=folder, stdout=subprocess.PIPE, text=True
        )
        try:
            assert warm.stdout is not None
            warm.stdout.readline()
            ways = {"anew": [], "from warm": [f"cluster.warm={folder / 'warm.json'}"]}
            timed(folder, "first", ways["from warm"])  # waits until everything is imported
            found: dict[str, list[tuple[float, float]]] = {way: [] for way in ways}
            for number in range(runs):
                for way, given in ways.items():
                    found[way].append(timed(folder, f"{way}-{number}".replace(" ", "-"), given))
        finally:
            warm.terminate()
            warm.wait()
    print("| started | the whole command, s | until the first iteration, s |")
    print("|---|---|---|")
    for way, seconds in found.items():
        print("| " + " | ".join([way, *(spread(column) for column in zip(*seconds, strict=True))]) + " |")


def timed(folder: Path, name: str, given: list[str]) -> tuple[float, float]:
    """Seconds of the whole command, and until the loop began."""
    output = folder / name
    began = time.monotonic()
    subprocess.run([*RLSCALE, *RUN, *given, f"run.output={output}"], cwd=folder, check=True, stdout=subprocess.DEVNULL)
    whole = time.monotonic() - began
    return whole, float(json.loads((output / "summary.json").read_text())["startup_seconds"])


def spread(values: tuple[float, ...]) -> str:
    return f"{statistics.median(values):.1f} ({min(values):.1f} to {max(values):.1f})"


if __name__ == "__main__":
    main()

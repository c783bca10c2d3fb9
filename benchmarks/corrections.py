"""What corrections come to where the engine is not the trainer: `python benchmarks/corrections.py [behind|int4]`.

The recipe `arithmetic` with engines of their own that are up to four weight versions behind, or with engines of int4
weights that nobody trained for (`--rollout` takes overrides of your own instead), without a correction, with tis, with
score centering, and with both. Accuracy is that on the held-out sums before and after; drift the mean k3 of engine
against trainer over the last twenty iterations. Each run takes minutes on two cores; they share the warm start, with
`--folder` also from one call to the next.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from machine import describe_machine, load_average
from rich import box
from rich.console import Console
from rich.table import Table

from rlscale.observe import jsonl
from rlscale.observe.summary import Summary

ALWAYS = ("checkpoint.every=0", "run.progress=plain")
SETTINGS = {
    "behind": (
        *("cluster.placement=disaggregated", "rollout.max_staleness=4", "rollout.on_sync=abort_and_resume"),
        "optim.lr=4e-4",
    ),
    "int4": ("rollout.weights=int4",),
}
CENTERED = "algo.correction.score_centering=20"  # all words of the recipe's vocabulary
VARIANTS = {
    "none": (),
    "tis": ("algo/correction=tis",),
    "score centering": ("algo/correction=score_centering", CENTERED),
    "tis, score centering": ("algo/correction=tis", CENTERED),
}
LAST = 20


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("setting", choices=SETTINGS, nargs="?", default="behind")
    parser.add_argument("--seeds", type=int, default=3, metavar="NUMBER")
    parser.add_argument("--first-seed", type=int, default=1, metavar="SEED")
    parser.add_argument("--only", nargs="*", choices=VARIANTS, default=list(VARIANTS), metavar="CORRECTION")
    parser.add_argument("--rollout", nargs="*", metavar="OVERRIDE")
    parser.add_argument("--folder", type=Path, help="where runs are kept, and found again")
    arguments = parser.parse_args()
    console = Console(width=150)
    console.print(", ".join(f"{name} {value}" for name, value in describe_machine().items()), f"load {load_average()}")
    rollout = [*ALWAYS, *(SETTINGS[arguments.setting] if arguments.rollout is None else arguments.rollout)]
    seeds = range(arguments.first_seed, arguments.first_seed + arguments.seeds)
    console.print(*rollout, f"seeds {list(seeds)}")
    table = Table("correction", "accuracy before", "after, of each seed", "mean", "drift (k3)", box=box.MARKDOWN)
    with tempfile.TemporaryDirectory(prefix="corrections-") as name:
        folder = arguments.folder or Path(name)
        folder.mkdir(parents=True, exist_ok=True)
        for variant in arguments.only:
            runs = [measure(folder, [*rollout, *VARIANTS[variant]], seed) for seed in seeds]
            before, after, drift = zip(*runs, strict=True)
            console.log(variant, before, after, drift)
            table.add_row(
                variant,
                f"{statistics.fmean(before):.3f}",
                ", ".join(f"{accuracy:.3f}" for accuracy in after),
                f"{statistics.fmean(after):.3f}",
                f"{statistics.fmean(drift):.2e}",
            )
    console.print(table)


def measure(folder: Path, overrides: list[str], seed: int) -> tuple[float, float, float]:
    """Accuracy before and after a run, and its drift at the end."""
    output = folder / f"run-{len(list(folder.glob('run-*')))}"
    command = [sys.executable, "-m", "rlscale", *overrides, f"run.seed={seed}", f"run.output={output}"]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    subprocess.run(command, cwd=folder, env=environment, check=True, stdout=subprocess.DEVNULL, timeout=1200)
    summary = Summary.read(output)
    assert summary is not None
    assert summary.eval_before is not None
    assert summary.eval_after is not None
    lines = [line for line in jsonl.read(output / "metrics.jsonl") if "mismatch_k3" in line]
    return summary.eval_before, summary.eval_after, statistics.fmean(line["mismatch_k3"] for line in lines[-LAST:])


if __name__ == "__main__":
    main()

"""What corrections come to where engines are not the trainer: `python benchmarks/corrections.py [SETTING ...]`.

The recipe `arithmetic` with engines that agree with the trainer bit for bit, in float32 and bfloat16 as they are, of
fp8 and int4 weights that nobody trained for, of int4 weights that are trained, and up to four versions behind; without
a correction, with tis, with score centering, and with both. Accuracy is that on the held-out sums before and after;
drift the mean k3 of engine against trainer over the last ten iterations; the mean difference of log-probs is over the
tokens of the trainer's own version, the largest over all, each over all iterations. With `--folder` a study goes on
where it was stopped; `--found` runs nothing and prints what is there. `--figure FILE` draws it as SVG. A cell takes a
minute or two.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path

from machine import describe_machine, load_average
from mismatch_cells import CORRECTIONS, RUN, SETTINGS, SHORT, cells
from mismatch_figure import draw
from rich import box
from rich.console import Console
from rich.table import Table
from study import Cell, Outcome, Study

K3, BEHIND = "mismatch_k3", "staleness_mean"
MEAN, LARGEST = "logprob_diff_mean", "mismatch_abs_max"
"""Of the tokens of the trainer's own version, and of all."""


def main() -> None:
    """Run what is missing, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("settings", type=_setting, nargs="*", metavar="SETTING", help=", ".join(SETTINGS))
    parser.add_argument("--only", nargs="*", choices=CORRECTIONS, default=list(CORRECTIONS), metavar="CORRECTION")
    parser.add_argument("--seeds", type=int, default=3, metavar="NUMBER")
    parser.add_argument("--first-seed", type=int, default=1, metavar="SEED")
    parser.add_argument("--whole", action="store_true", help="as many iterations and prompts as the recipe has")
    parser.add_argument("--folder", type=Path, help="where runs are kept, and found again")
    parser.add_argument("--found", action="store_true", help="run nothing; print what the folder has")
    parser.add_argument("--figure", type=Path, help="an SVG of rewards and drift by iterations")
    arguments = parser.parse_args()
    console = Console(width=150)
    console.print(", ".join(f"{name} {value}" for name, value in describe_machine().items()), f"load {load_average()}")
    seeds = range(arguments.first_seed, arguments.first_seed + arguments.seeds)
    wanted = cells(arguments.settings or SETTINGS, arguments.only, seeds, whole=arguments.whole)
    console.print(*RUN, *(() if arguments.whole else SHORT), f"seeds {list(seeds)}")
    with tempfile.TemporaryDirectory(prefix="corrections-") as name:
        study = Study(arguments.folder or Path(name))
        for cell, seconds in study.run(() if arguments.found else wanted):
            console.log(cell.setting, cell.correction, f"seed {cell.seed}", f"{seconds:.0f} s")
        found = {cell: outcome for cell in wanted if (outcome := study.outcome(cell)) is not None}
    console.print(f"{len(found)} of {len(wanted)} cells")
    console.print(_table(found))
    if arguments.figure is not None:
        arguments.figure.write_text(draw(found))


def _setting(name: str) -> str:
    # argparse would look for the empty list among choices
    if name not in SETTINGS:
        raise argparse.ArgumentTypeError(f"{name} is none of {', '.join(SETTINGS)}")
    return name


def _table(found: dict[Cell, Outcome]) -> Table:
    table = Table(
        *("engines", "correction", "seeds", "accuracy before", "after, of each seed", "mean"),
        *("drift (k3)", "log-prob difference, mean", "largest", "versions behind"),
        box=box.MARKDOWN,
    )
    for setting in SETTINGS:
        for correction in CORRECTIONS:
            here = {c.seed: o for c, o in found.items() if (c.setting, c.correction) == (setting, correction)}
            if here:
                table.add_row(setting, correction, ", ".join(map(str, here)), *_figures(list(here.values())))
    return table


def _figures(outcomes: Sequence[Outcome]) -> tuple[str, ...]:
    after = [outcome.after for outcome in outcomes]
    return (
        f"{statistics.fmean(outcome.before for outcome in outcomes):.3f}",
        ", ".join(f"{accuracy:.3f}" for accuracy in after),
        f"{statistics.fmean(after):.3f}",
        f"{statistics.fmean(outcome.late(K3) for outcome in outcomes):.1e}",
        f"{statistics.fmean(outcome.mean(MEAN) for outcome in outcomes):.1e}",
        f"{max(outcome.largest(LARGEST) for outcome in outcomes):.1e}",
        f"{statistics.fmean(outcome.mean(BEHIND) for outcome in outcomes):.1f}",
    )


if __name__ == "__main__":
    main()

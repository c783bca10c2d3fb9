"""The fault matrix: something happens to processes of a real run, again and again, and what becomes of it.

    python benchmarks/faults.py [--results FOLDER] [--seconds 500] [--iterations 120] [--placement disaggregated]
        [--processes rank,engine] [--faults kill,stop] [--phases train,sync]
        [--cells 'rank:kill:train,engine:stop:sync'] [-- key=value ...]

A cell is a process, what befalls it, and the phase of an iteration in which it does, or the start of the command, or
its end after SIGTERM: with these two the cell has a command of its own. Cells follow each other in one run of the
default recipe, shortened. Two iterations after each the run must be well: it went on by itself where a fault of that
kind ends no run, or else ended in one line and was continued by the same command; both within the limit of the cell,
which is 15 s where the run was ending. Its finished iterations trained on the prompts of an undisturbed run, in its
order; the ranks' loss left the servers alone; and no process is left of a command that ended. When the run is over its
weights must be those of the undisturbed one, bit for bit, and its accounts must balance. The table says what happened,
and the seconds until the run was two iterations further or had ended.

With `--placement disaggregated` engines generate for the next iteration while the trainer works. What an iteration is
trained on depends on how fast they are then, so that prompts and weights are not those of another run: the accounts
must balance, each iteration has its optimizer steps, and no prompt is trained on twice.

Cells come in an order in which a twelfth of them has every process, every fault and every phase. Those that are left
when a run is over happen to another one. With `--results` everything is kept in that folder: `--seconds` ends the run
before another cell begins, and the same command goes on with it. Exit code 1 if something was not so, or if chosen
cells have not run. All 480 cells take hours. Runs start from `python -m rlscale warm`, and
`starved` needs root.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shlex
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fault_cells import PROCESSES, Cell, all_cells
from fault_chain import LIMIT_S, Chain
from fault_outcome import WELL, Outcome
from faulty_run import PHASES, FaultyRun, Warm
from harms import FAULTS

RUN = (
    *("rollout.groups_per_iteration=4", "rollout.samples_per_group=4", "warm_start=null"),
    # With a pass for log-probs, and a middle of an iteration.
    *("algo=reinforce_pp", "algo.steps_per_iteration=2"),
    *("eval.prompts=16", "eval.every=1", "checkpoint.every=3", "run.progress=plain"),
    *("rollout.store=all", "run.output=run", "cluster.engine_restarts=1000", "run.recover_at_most=1000"),
)
AHEAD = "disaggregated"
PLACEMENTS = {
    "colocated": (),
    AHEAD: ("cluster.placement=disaggregated", "rollout.max_staleness=1", "rollout.stale=wait"),
}
"""Words of each."""
HEAD = "| process | fault | in phase | what happens | s | afterwards |\n|---|---|---|---|--:|---|"


def undisturbed(place: Path, words: Sequence[str], start: Callable[[Path], FaultyRun]) -> Outcome:
    """What a run does to which nothing happens. SystemExit where it fails."""
    folder = place / "calm"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    with start(folder) as run:
        ended = run.end(10 * LIMIT_S)
    if ended.code != 0:
        sys.exit(f"the undisturbed run failed: {ended.last}")
    print(f"python -m rlscale {shlex.join(words)}: {ended.seconds:.0f} s undisturbed\n", flush=True)
    return Outcome.of(folder / "run")


def chosen_cells(options: argparse.Namespace) -> list[Cell]:
    """The part of the matrix that was asked for."""
    if options.cells:
        return [Cell.of(cell) for cell in options.cells.split(",")]
    return [
        cell
        for cell in all_cells()
        if cell.process in options.processes.split(",")
        and cell.fault in options.faults.split(",")
        and cell.phase in options.phases.split(",")
    ]


class Results:
    """Rows of cells that have run, and the undisturbed run's outcome, in a folder that may be there already."""

    def __init__(self, folder: Path, words: Sequence[str]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._file = folder / f"{hashlib.sha256(repr(words).encode()).hexdigest()[:8]}.json"
        stored: dict[str, Any] = json.loads(self._file.read_text()) if self._file.exists() else {}
        self.rows: list[list[str]] = stored.get("rows", [])
        self.calm = Outcome(**stored["calm"]) if "calm" in stored else None
        self.ends: list[str] = stored.get("ends", [])
        """What was not as undisturbed when a run was over, or WELL, for each run that is."""

    @property
    def run(self) -> Path:
        """Folder of the run that is not over, or else of the next one, which is not there yet."""
        return self._file.with_name(f"{self._file.stem}-run-{len(self.ends) + 1}")

    def has(self, cell: Cell) -> bool:
        """Whether that cell has run."""
        return [cell.process, cell.fault, cell.phase] in [row[:3] for row in self.rows]

    def keep(self) -> None:
        """Write down what there is."""
        calm = {"calm": asdict(self.calm)} if self.calm is not None else {}
        self._file.write_text(json.dumps({"rows": self.rows, "ends": self.ends, **calm}))


def main() -> int:
    """Print each row as soon as it is known, and in the end the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", default=",".join(PROCESSES))
    parser.add_argument("--faults", default=",".join(FAULTS))
    parser.add_argument("--phases", default=",".join(PHASES))
    parser.add_argument("--cells", help="these, in this order, as process:fault:phase,...")
    parser.add_argument("--placement", choices=PLACEMENTS, default="colocated")
    parser.add_argument("--results", type=Path, help="folder of what has run and of what runs")
    parser.add_argument("--iterations", type=int, default=120, help="of the run; a cell takes some")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="after these no other cell begins")
    parser.add_argument("words", nargs="*", help="further words of the runs' command line")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that nothing is left
    words = [*RUN, *PLACEMENTS[options.placement], f"run.iterations={options.iterations}", *options.words]
    chosen = chosen_cells(options)
    with tempfile.TemporaryDirectory() as scratch:
        place = (options.results or Path(scratch)).resolve()
        place.mkdir(parents=True, exist_ok=True)
        results = Results(place, words)
        with Warm(place) as warm:

            def start(folder: Path) -> FaultyRun:
                return FaultyRun(folder, [*words, warm.word], warm.pid)

            if results.calm is None and options.placement != AHEAD:
                results.calm = undisturbed(place, words, start)
                results.keep()
            until = time.monotonic() + options.seconds
            while (todo := [cell for cell in chosen if not results.has(cell)]) or results.run.exists():
                with Chain(results.run, start, results.calm) as chain:
                    if not play(chain, todo, results, until):
                        break
                    faults = chain.finish()
                results.ends.append("; ".join(faults) or WELL)
                results.keep()
    return told(results, chosen)


def told(results: Results, chosen: Sequence[Cell]) -> int:
    """Print the table, what became of the runs, and how many of the chosen cells have run; the exit code."""
    done = sum(map(results.has, chosen))
    lines = [HEAD, *(f"| {' | '.join(row)} |" for row in results.rows)]
    lines += [f"when run {number} was over: {end}" for number, end in enumerate(results.ends, 1)]
    print("\n".join([*lines, f"{done} of {len(chosen)} cells have run"]))
    return 0 if done == len(chosen) and {WELL}.issuperset([row[-1] for row in results.rows] + results.ends) else 1


def play(chain: Chain, todo: Sequence[Cell], results: Results, until: float) -> bool:
    """Play cells, as many as there is time for; whether nothing more is to be done than to let the run end."""
    for number, cell in enumerate(todo):
        if chain.finished:
            return True
        if time.monotonic() > until:
            return False
        row = chain.play(cell)
        if row.seconds is None and chain.finished and number:  # its end was nearer than that phase: in the next run
            return True
        results.rows.append(row.columns)
        results.keep()
        print(f"| {' | '.join(results.rows[-1])} |", file=sys.stderr, flush=True)
    return True


if __name__ == "__main__":
    sys.exit(main())

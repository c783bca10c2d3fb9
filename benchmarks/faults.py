"""The fault matrix: something happens to processes of a real run, again and again, and what becomes of it.

    python benchmarks/faults.py [--results FOLDER] [--seconds 500] [--iterations 120] [--processes rank,engine]
        [--faults kill,stop] [--phases train,sync] [--cells 'rank:kill:train,engine:stop:sync'] [-- key=value ...]

A cell is a process, what befalls it, and the phase of an iteration in which it does. Cells follow each other in one run
of the default recipe, shortened. Two iterations after each the run must be well: it went on by itself where a fault of
that kind ends no run, or else ended in one line and was continued by the same command, within the limit; its finished
iterations trained on the prompts of an undisturbed run, in its order; and no process is left of a command that ended.
When the run is over its weights must be those of the undisturbed one, bit for bit, and its accounts must balance. The
table says what happened, and the seconds until the run was two iterations further or had ended.

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
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from faulty_run import PHASES, Ended, FaultyRun, Warm
from harms import FAULTS
from soak import balance

from rlscale.data.stored.rollout_file import read_groups
from rlscale.observe.jsonl import read

PROCESSES = {
    "driver": ("rlscale command",),
    "rank": ("TrainerActor",),
    "engine": ("rlscale engine-0",),
    "scheduler": ("sglang::scheduler",),
    "router": ("rlscale.serve.router_main",),
    "rollout service": ("RolloutActor",),
    "launcher": ("LauncherActor",),
    "Ray worker": ("serve/forked_python.py",),
    "raylet": ("raylet/raylet",),
    "node": ("raylet/raylet", "Actor", "rlscale engine-0", "sglang::", "rlscale.serve.router_main", "ray::"),
}
"""Words in the command line of each. `Ray worker` is what Ray started as rank, rollout service and so on."""
GOES_ON = ("rank", "engine", "scheduler", "router")
"""Processes whose loss ends no run that is neither starting nor stopping."""
RUN = (
    *("rollout.groups_per_iteration=4", "rollout.samples_per_group=4", "warm_start=null", "algo=reinforce_pp"),
    *("eval.prompts=16", "eval.every=1", "checkpoint.every=3", "run.progress=plain"),
    *("rollout.store=all", "run.output=run", "cluster.engine_restarts=1000", "run.recover_at_most=1000"),
)
LIMIT_S = 180.0
"""A run that is neither further nor at its end after so long hangs; starting one may take twice as long."""
FURTHER = 2
"""Iterations that show that a run goes on."""
WELL = "as undisturbed"
HEAD = "| process | fault | in phase | what happens | s | afterwards |\n|---|---|---|---|--:|---|"


@dataclass(frozen=True)
class Cell:
    """A process, what befalls it, and when."""

    process: str
    fault: str
    phase: str

    @property
    def ends_no_run(self) -> bool:
        """Whether the run must go on by itself."""
        return (
            self.process in GOES_ON and self.fault in ("kill", "stop") and self.phase not in ("start", "stop", "save")
        )


@dataclass(frozen=True)
class Outcome:
    """What a run has done so far."""

    prompts: dict[str, list[int]]
    """Those that each finished iteration trained on."""
    weights: str
    """A checksum of the final ones; empty for a run that has not finished."""
    odd: list[str]
    """Accounts of prompts and tokens that do not balance, and iterations that are not each there once."""

    @staticmethod
    def of(folder: Path) -> Outcome:
        """Of the run in a folder."""
        rows = [row for row in read(folder / "metrics.jsonl") if "weight_version" in row]
        seen = [row["iteration"] for row in rows]
        files = [folder / "rollouts" / f"iteration_{number:06d}.parquet" for number in seen]
        prompts = {file.stem: [group.prompt.index for group in read_groups(file)] for file in files if file.exists()}
        final = folder / "hf" / "model.safetensors"
        weights = hashlib.sha256(final.read_bytes()).hexdigest() if final.exists() else ""
        accounts = [balance(rows[-1], "prompts", "drawn"), balance(rows[-1], "tokens", "received")] if rows else []
        odd = [one for one in accounts if " = 0 " not in one]
        if seen != list(range(1, len(seen) + 1)):
            odd.append(f"iterations {seen}")
        return Outcome(prompts, weights, odd)

    def differs(self, calm: Outcome) -> list[str]:
        """What of it is not as in the undisturbed run, as far as it has come."""
        faults = list(self.odd)
        other = [name for name, prompts in self.prompts.items() if calm.prompts[name] != prompts]
        faults += [f"other prompts in {', '.join(other)}"] if other else []
        return [*faults, "other weights"] if self.weights not in ("", calm.weights) else faults


class Chain:
    """A run to which one thing after another happens. A context manager, which stops it."""

    def __init__(self, folder: Path, words: Sequence[str], warm: Warm, calm: Outcome) -> None:
        folder.mkdir(exist_ok=True)
        self._folder, self._words, self._warm, self._calm = folder, words, warm, calm
        self._run: FaultyRun | None = None

    def __enter__(self) -> Chain:
        return self

    def __exit__(self, *_: object) -> None:
        if self._run is not None:
            self._run.signal(signal.SIGTERM)
            self._run.end(LIMIT_S)

    @property
    def finished(self) -> bool:
        """Whether all iterations are done."""
        return (self._folder / "run" / "hf" / "model.safetensors").exists()

    def finish(self) -> list[str]:
        """Let it come to its end; what is not as undisturbed then."""
        if self.finished:
            return []
        ended = self._running().end(10 * LIMIT_S)
        self._run = None
        return [] if ended.code == 0 else [f"ended with {ended.code}: {ended.last}"]

    def play(self, cell: Cell) -> list[str]:
        """Do that to it. The row of the table, the last entry of which is WELL where all is well."""
        head = [cell.process, cell.fault, cell.phase]
        if cell.phase == "start":
            self._end_if_it_runs()
        run = self._running()
        if not run.await_phase(cell.phase, 2 * LIMIT_S):
            return [*head, "never came to that phase", "", run.last if run.ended else f"within {2 * LIMIT_S:.0f} s"]
        if cell.phase == "stop":
            run.signal(signal.SIGTERM)
        hit, began, before = run.named(*PROCESSES[cell.process]), time.monotonic(), run.trained
        faults = [] if hit else ["no such process"]
        with FAULTS[cell.fault](hit):
            if cell.process == "driver" and cell.fault == "stop":
                time.sleep(5.0)
                for one in hit:
                    one.kill()  # as whoever finds it hanging
            goes_on = run.await_trained(run.trained + FURTHER, LIMIT_S)
        said, seconds = "goes on", time.monotonic() - began
        if not goes_on:
            said, more = self._what_became_of(cell, run.end(1.0), before)
            faults += more
        faults += Outcome.of(self._folder / "run").differs(self._calm)
        return [*head, said, f"{seconds:.0f}", "; ".join(faults) or WELL]

    def _what_became_of(self, cell: Cell, ended: Ended, before: int) -> tuple[str, list[str]]:
        """Of a command that is over, and of the same one after it; and what was wrong with that."""
        self._run = None
        faults = [f"left: {', '.join(ended.left)}"] if ended.left else []
        if ended.code is None:
            faults.append(f"no end within {LIMIT_S:.0f} s")
        if cell.ends_no_run and ended.code != 0:
            faults.append("the run ended")
        if (ended.code == 2 and not ended.line) or "Traceback" in ended.text:
            faults.append("no line that says why")
        if ended.code == 0:
            return "goes on to its end", faults
        again = self._running()
        if not again.await_trained(before + FURTHER, 2 * LIMIT_S) and not self.finished:
            faults.append(f"the same command: {again.last if again.ended else 'hangs'}")
        said = ended.line or {130: "stopped", None: "hangs"}.get(ended.code, f"ended by {ended.code}")
        return f"{said.replace(str(self._folder), '')[:240]}, then resumed", faults

    def _running(self) -> FaultyRun:
        if self._run is None or self._run.ended:
            self._run = FaultyRun(self._folder, [*RUN, *self._words, self._warm.word], self._warm.pid)
        return self._run

    def _end_if_it_runs(self) -> None:
        if self._run is not None:
            self._run.signal(signal.SIGTERM)
            self._run.end(LIMIT_S)
            self._run = None


def undisturbed(place: Path, words: Sequence[str], warm: Warm) -> Outcome:
    """What a run does to which nothing happens. SystemExit where it fails."""
    folder = place / "calm"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    with FaultyRun(folder, [*RUN, *words, warm.word], warm.pid) as run:
        ended = run.end(10 * LIMIT_S)
    if ended.code != 0:
        sys.exit(f"the undisturbed run failed: {ended.last}")
    print(f"python -m rlscale {shlex.join([*RUN, *words])}: {ended.seconds:.0f} s undisturbed\n", flush=True)
    return Outcome.of(folder / "run")


def cells(options: argparse.Namespace) -> list[Cell]:
    """The chosen part of the matrix; each twelfth of the whole has every process, fault and phase."""
    if options.cells:
        return [Cell(*cell.split(":")) for cell in options.cells.split(",")]
    found = []
    for place, process in enumerate(PROCESSES):
        for number, fault in enumerate(FAULTS):
            for moment, phase in enumerate(PHASES):
                found.append(((5 * place + 2 * number + 3 * moment) % 12, Cell(process, fault, phase)))
    return [
        cell
        for _, cell in sorted(found, key=lambda one: one[0])
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
        return self._file.parent / f"run-{len(self.ends) + 1}"

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
    parser.add_argument("--results", type=Path, help="folder of what has run and of what runs")
    parser.add_argument("--iterations", type=int, default=120, help="of the run; a cell takes some")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="after these no other cell begins")
    parser.add_argument("words", nargs="*", help="further words of the runs' command line")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that nothing is left
    words = [f"run.iterations={options.iterations}", *options.words]
    with tempfile.TemporaryDirectory() as scratch:
        place = (options.results or Path(scratch)).resolve()
        place.mkdir(parents=True, exist_ok=True)
        results = Results(place, words)
        with Warm(place) as warm:
            results.calm = results.calm or undisturbed(place, words, warm)
            results.keep()
            until = time.monotonic() + options.seconds
            while (todo := [cell for cell in cells(options) if not results.has(cell)]) or results.run.exists():
                folder = results.run
                with Chain(folder, words, warm, results.calm) as chain:
                    if not play(chain, todo, results, until):
                        break
                    faults = [*chain.finish(), *Outcome.of(folder / "run").differs(results.calm)]
                results.ends.append("; ".join(faults) or WELL)
                results.keep()
    return told(results, cells(options))


def told(results: Results, chosen: Sequence[Cell]) -> int:
    """Print the table, what became of the runs, and how many of the chosen cells have run; the exit code."""
    done = sum(map(results.has, chosen))
    lines = [HEAD, *(f"| {' | '.join(row)} |" for row in results.rows)]
    lines += [f"when run {number} was over: {end}" for number, end in enumerate(results.ends, 1)]
    print("\n".join([*lines, f"{done} of {len(chosen)} cells have run"]))
    return 0 if done == len(chosen) and {WELL}.issuperset([row[-1] for row in results.rows] + results.ends) else 1


def play(chain: Chain, todo: Sequence[Cell], results: Results, until: float) -> bool:
    """Play cells, as many as there is time for; whether nothing more is to be done than to let the run end."""
    for cell in todo:
        if chain.finished:
            return True
        if time.monotonic() > until:
            return False
        results.rows.append(chain.play(cell))
        results.keep()
        print(f"| {' | '.join(results.rows[-1])} |", file=sys.stderr, flush=True)
    return True


if __name__ == "__main__":
    sys.exit(main())

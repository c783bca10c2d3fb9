"""The fault matrix: shortened real runs, one of whose processes is killed or stopped, and what becomes of them.

    python benchmarks/faults.py [--processes rank,engine] [--faults kill,stop] [--phases train,sync] [-- key=value ...]

A cell is a run of the default recipe. It must go on, or end in one line within the limit and be continued by the same
command; then its iterations, the prompts that it trained on and its weights must be those of an undisturbed run, bit
for bit, and none of its processes may be left. The table says what happened, and how long the run took from the fault
to its end. Exit code 1 if something was not so. All cells take hours.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from rlscale.data.stored.rollout_file import read_groups

PROCESSES = {
    "driver": "-m rlscale",
    "rank": "TrainerActor",
    "rollout service": "RolloutActor",
    "launcher": "LauncherActor",
    "engine": "rlscale engine-0",
    "scheduler": "sglang::scheduler",
    "router": "rlscale.serve.router_main",
    "raylet": "raylet/raylet",
}
"""Words in the command line of each."""
FAULTS = ("kill", "stop", "stop 20 s")
AFTER = {"generate": "sync", "train": "generate", "sync": "train"}
"""The driver's span whose end begins a phase."""
PHASES = (*AFTER, "save", "stop")
RUN = (
    *("rollout.groups_per_iteration=4", "rollout.samples_per_group=4", "eval.enabled=false", "warm_start=null"),
    *("run.iterations=8", "checkpoint.every=3", "run.progress=plain", "rollout.store=all", "run.output=run"),
)
LIMIT_S = 180.0
GONE_S = 15.0


@dataclass(frozen=True)
class Cell:
    """A process, what befalls it, and when."""

    process: str
    fault: str
    phase: str


@dataclass
class Ended:
    """How a command ended."""

    code: int | None
    """None for one that did not, and had to be killed."""
    seconds: float
    text: str
    left: list[str]
    """Processes that were still there `GONE_S` later; they are killed."""

    @property
    def line(self) -> str:
        """The error's line, where there is one."""
        lines = [line for line in self.text.splitlines() if line.startswith("error: ")]
        return lines[-1] if lines else ""


class Run:
    """A command in a folder, with all processes that it ever started."""

    def __init__(self, folder: Path, words: Sequence[str]) -> None:
        self.folder = folder
        self._log = folder / f"command-{time.monotonic_ns()}.log"
        with open(self._log, "w") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "rlscale", *RUN, *words], cwd=folder, stdout=output, stderr=subprocess.STDOUT
            )
        self._family: dict[int, psutil.Process] = {self._process.pid: psutil.Process(self._process.pid)}

    @property
    def ended(self) -> bool:
        """Whether the command has."""
        return self._process.poll() is not None

    def family(self) -> list[psutil.Process]:
        """Those of them that live, the driver first."""
        for process in list(self._family.values()):
            with suppress(psutil.NoSuchProcess):
                self._family |= {child.pid: child for child in process.children(recursive=True)}
        return [one for one in self._family.values() if _lives(one)]

    def named(self, word: str) -> list[psutil.Process]:
        """Those with the word in their command line, or the driver."""
        found = []
        for one in self.family():
            with suppress(psutil.NoSuchProcess):
                if word in " ".join(one.cmdline()):
                    found.append(one)
        return found[:1] if word == PROCESSES["driver"] else found

    def await_phase(self, phase: str) -> bool:
        """Return once it is in the phase, after the first two iterations; False if it ended before."""
        deadline = time.monotonic() + LIMIT_S
        while not self.ended and time.monotonic() < deadline:
            if self._is_in(phase):
                return True
            time.sleep(0.005)
        return False

    def _is_in(self, phase: str) -> bool:
        with suppress(OSError, ValueError):
            if phase == "save":
                return bool(list((self.folder / "run" / "checkpoints").glob("partial-*")))
            lines = (self.folder / "run" / "timeline.jsonl").read_text().splitlines()
            spans = [json.loads(line)["name"] for line in lines if '"driver"' in line]
            if spans.count("train") < 2:
                return False
            return phase == "stop" or spans[-1] == AFTER[phase]
        return False

    def signal(self, number: int) -> None:
        """To the driver."""
        with suppress(ProcessLookupError):
            os.kill(self._process.pid, number)

    def end(self, limit_s: float) -> Ended:
        """Wait for it, at most so long, and see what it leaves."""
        began, code = time.monotonic(), None
        while not self.ended and time.monotonic() - began < limit_s:
            self.family()
            time.sleep(0.1)
        seconds = time.monotonic() - began
        code = self._process.poll()
        deadline = time.monotonic() + (GONE_S if code is not None else 0.0)
        while self.family() and time.monotonic() < deadline:
            time.sleep(0.1)
        left = []
        for one in self.family():
            with suppress(psutil.NoSuchProcess):
                left.append(" ".join(one.cmdline())[:60])
                one.kill()
        self._process.wait(20)
        return Ended(code, seconds, self._log.read_text(), left if code is not None else [])


def _lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def outcome(folder: Path) -> tuple[list[int], list[list[int]], bytes]:
    """Iterations, the prompts that each trained on, and the weights of a finished run."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    iterations = [row["iteration"] for row in rows if "weight_version" in row]
    files = sorted((folder / "rollouts").glob("iteration_*.parquet"))
    prompts = [[group.prompt.index for group in read_groups(file)] for file in files]
    return iterations, prompts, (folder / "hf" / "model.safetensors").read_bytes()


def play(cell: Cell, folder: Path, words: Sequence[str], calm: tuple[list[int], list[list[int]], bytes]) -> list[str]:
    """Run a cell. Its row of the table, the last entry of which is "as undisturbed" where all is well."""
    run = Run(folder, words)
    if not run.await_phase(cell.phase):
        run.signal(signal.SIGKILL)
        return [*_head(cell), "never came to that phase", "", _last(run.end(5.0))]
    if cell.phase == "stop":
        run.signal(signal.SIGTERM)
    hit = run.named(PROCESSES[cell.process])
    for one in hit:
        with suppress(psutil.NoSuchProcess):
            one.send_signal(signal.SIGKILL if cell.fault == "kill" else signal.SIGSTOP)
    if cell.fault == "stop 20 s":
        time.sleep(20.0)
        for one in hit:
            with suppress(psutil.NoSuchProcess):
                one.resume()
    elif cell.process == "driver" and cell.fault == "stop":
        time.sleep(5.0)
        run.signal(signal.SIGKILL)  # as whoever finds it hanging
    first = run.end(LIMIT_S)
    said = first.line or {0: "goes on", 130: "stopped", None: "hangs"}.get(first.code, f"ended by {first.code}")
    faults = [f"left: {', '.join(first.left)}"] if first.left else []
    if first.code is None:
        faults.append(f"no end within {LIMIT_S:.0f} s")
    last = first if first.code == 0 else Run(folder, words).end(LIMIT_S)
    if last.code != 0:
        faults.append(f"the same command ended with {last.code}: {_last(last)}")
    elif outcome(folder / "run") != calm:
        faults.append("other iterations, prompts or weights")
    then = "" if first.code == 0 else ", then resumed"
    return [*_head(cell), f"{said[:200]}{then}", f"{first.seconds:.0f}", "; ".join(faults) or "as undisturbed"]


def _head(cell: Cell) -> list[str]:
    return [cell.process, cell.fault, cell.phase]


def _last(ended: Ended) -> str:
    return ended.line or (ended.text.strip().splitlines() or ["(nothing)"])[-1]


def cells(options: argparse.Namespace) -> Iterator[Cell]:
    """The chosen part of the matrix."""
    for process in options.processes.split(","):
        for fault in options.faults.split(","):
            for phase in options.phases.split(","):
                yield Cell(process, fault, phase)


def main() -> int:
    """Print the table, a row as soon as it is known."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", default=",".join(PROCESSES))
    parser.add_argument("--faults", default=",".join(FAULTS))
    parser.add_argument("--phases", default=",".join(PHASES))
    parser.add_argument("words", nargs="*", help="further words of the runs' command line")
    options = parser.parse_args()
    bad = 0
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "calm"
        folder.mkdir()
        undisturbed = Run(folder, options.words).end(2 * LIMIT_S)
        if undisturbed.code != 0:
            print(f"the undisturbed run failed: {_last(undisturbed)}")
            return 1
        calm = outcome(folder / "run")
        print(f"python -m rlscale {shlex.join([*RUN, *options.words])}: {undisturbed.seconds:.0f} s undisturbed\n")
        print("| process | fault | in phase | what happens | s to its end | afterwards |\n|---|---|---|---|--:|---|")
        for number, cell in enumerate(cells(options)):
            folder = Path(place) / str(number)
            folder.mkdir()
            row = play(cell, folder, options.words, calm)
            bad += row[-1] != "as undisturbed"
            print(f"| {' | '.join(row)} |", flush=True)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())

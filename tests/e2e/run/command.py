"""Runs of the real command line, short enough for a test, and what a test looks at afterwards."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from shared_ray import JOINING, JOINS

from rlscale.run.processes.forks import read_forks

SHORT = (
    "rollout.groups_per_iteration=4",
    "rollout.samples_per_group=4",
    "eval.prompts=16",
    "eval.every=0",
    "run.iterations=2",
    "checkpoint.every=1",
    "warm_start=null",
    "run.progress=plain",
)
"""Overrides that make a run of any shipped arithmetic recipe last seconds."""

PROBE = [2, 8, 11, 14, 7, 12, 15, 9, 12]
"""Token ids of the tiny model that engines and exported models are asked about."""


@dataclass
class Finished:
    """A command that ended."""

    code: int
    text: str
    seconds: float
    engine_logprobs: list[float] | None = None
    """What the engine said of PROBE[1:] right after the run."""


def command(*arguments: str, program: str = "rlscale") -> list[str]:
    """The command line as a user types it, or of another program in the folder that it runs in."""
    return [sys.executable, "-m", program, *arguments]


def environment_of(arguments: Sequence[str]) -> dict[str, str]:
    """What a command finds: this process's, and what lets it join the session's Ray where its arguments say so."""
    (*_, ray) = ("", *(word for word in arguments if word.startswith(JOINS)))  # the last one counts
    return {**os.environ, **(JOINING if ray not in ("", f"{JOINS}null") else {})}


def run(folder: Path, *arguments: str, timeout: float = 240.0, program: str = "rlscale") -> Finished:
    """Run to the end in `folder`; its exit code and everything it printed.

    `program`: another one in that folder, in the place of `python -m rlscale`.

    With `cluster.warm` the command itself is forked, too, instead of importing everything for some seconds.
    """
    started = time.monotonic()
    asked, environment = command(*arguments, program=program), environment_of(arguments)
    warm = [word.partition("=")[2] for word in arguments if word.startswith("cluster.warm=")]
    if warm:
        forks = read_forks(Path(warm[0]))
        asked, environment = forks.command(*asked[1:]), {**environment, **forks.shared}
    done = subprocess.run(
        asked,
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        text=True,
        timeout=timeout,
        check=False,
    )
    return Finished(done.returncode, done.stdout, time.monotonic() - started)


class Started:
    """A run in the background. A context manager that leaves nothing behind."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        self.log = folder / f"command-{time.monotonic_ns()}.log"
        with open(self.log, "w") as output:
            self.process = subprocess.Popen(
                command(*arguments),
                cwd=folder,
                env=environment_of(arguments),
                stdout=output,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
            )
        self._family: dict[int, psutil.Process] = {}

    def __enter__(self) -> Started:
        return self

    def __exit__(self, *_: object) -> None:
        for process in [*self.family(), psutil.Process(self.process.pid)] if self.alive() else self.family():
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue
        self.process.wait(timeout=20)

    def alive(self) -> bool:
        """Whether the driver still runs."""
        return self.process.poll() is None

    def family(self) -> list[psutil.Process]:
        """Every process that the driver or one of its descendants ever started and that still lives."""
        known = [psutil.Process(self.process.pid)] if self.alive() else []
        for process in [*known, *self._family.values()]:
            try:
                for child in process.children(recursive=True):
                    self._family[child.pid] = child
            except psutil.NoSuchProcess:
                continue
        return [process for process in self._family.values() if _lives(process)]

    def named(self, word: str) -> list[psutil.Process]:
        """The family's processes with this word in their command line."""
        found = []
        for process in self.family():
            try:
                if word in " ".join(process.cmdline()):
                    found.append(process)
            except psutil.NoSuchProcess:
                continue
        return found

    def wait_for(self, text: str, timeout: float = 180.0, times: int = 1) -> None:
        """Until the run has printed this so often."""
        deadline = time.monotonic() + timeout
        while self.log.read_text().count(text) < times:
            self.family()
            assert self.alive(), f"the run ended before it printed {text!r}:\n{self.log.read_text()[-3000:]}"
            assert time.monotonic() < deadline, f"no {text!r} in {timeout} s:\n{self.log.read_text()[-3000:]}"
            time.sleep(0.1)

    def signal(self, number: int = signal.SIGTERM) -> None:
        """Send the driver a signal, after noting its whole family."""
        self.family()
        os.kill(self.process.pid, number)

    def seconds_until_gone(self, limit: float) -> float:
        """How long the family outlives this call; AssertionError past `limit`."""
        started = time.monotonic()
        while left := self.family():
            passed = time.monotonic() - started
            assert passed < limit, (
                f"after {passed:.0f} s still there: {[(p.pid, p.name(), p.cmdline()[:4]) for p in left]}"
            )
            time.sleep(0.1)
        return time.monotonic() - started


def _lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def summary(run_folder: Path) -> dict[str, Any]:
    """The summary of a run."""
    read: dict[str, Any] = json.loads((run_folder / "summary.json").read_text())
    return read


def metrics(run_folder: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl that belong to training iterations."""
    lines = [json.loads(line) for line in (run_folder / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if "weight_version" in line]


def only_run(root: Path) -> Path:
    """The one run folder below outputs/<recipe>/."""
    (found,) = [path.parent for path in root.glob("outputs/*/*/run.json") if "stage-" not in str(path)]
    return found

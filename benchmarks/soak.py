"""A long run whose engine is killed again and again: what grows, what is lost, and whether it still learns.

    python benchmarks/soak.py [--iterations 5000] [--kill-every 200] [-- key=value ...]

The recipe `arithmetic` with its warm start, so that there is an accuracy to keep. Every few seconds memory (resident,
and what is its own), open files and threads of every process are written down. The table has, for each role, the
medians of the second and of the last quarter of the run and how much the last is above. The first quarter is the
warm-up, in which everything has happened at least twice but kills (saves and evaluations come every tenth of the run),
and counts for nothing. A process that is started again counts from its own beginning, when it has come to rest. Then
the rewards of both quarters, and where prompts and tokens went by the run's own accounts, which stop it when they do
not balance. 5,000 iterations take hours. Exit code 1 if something grew by more than 2 %, the rewards fell, an iteration
is missing, the run failed, or what this would show was not measured: no engine killed, or a role not seen in both
quarters.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median
from typing import Any

import psutil
from machine import describe_machine, load_average
from rich import box
from rich.console import Console
from rich.table import Table

from rlscale.observe.jsonl import read

ROLES = {
    "rank": "TrainerActor",
    "rollout service": "RolloutActor",
    "launcher": "LauncherActor",
    "engine": "rlscale engine-0",
    "scheduler": "sglang::scheduler",
    "detokenizer": "sglang::detokenizer",
    "router": "rlscale.serve.router_main",
    "raylet": "raylet/raylet",
    "Ray's gcs": "gcs_server",
}
"""Words in the command line of each, the first that fits counts. The driver is known by its id."""
DRIVER = "driver"
EVERY_S = 2.0
SETTLED_S = 20.0
"""Of a process that has just been started nothing is written down for so long."""
ALLOWED = 0.02
QUANTITIES = ("rss MB", "own MB", "open files", "threads")


@dataclass(frozen=True)
class Look:
    """What a process held at an iteration."""

    iteration: int
    held: Mapping[str, float]


def looks_at(process: psutil.Process) -> dict[str, float]:
    """What it holds. NoSuchProcess for one that has gone."""
    memory = process.memory_full_info()
    return {
        "rss MB": memory.rss / 1e6,
        "own MB": memory.uss / 1e6,
        "open files": float(process.num_fds()),
        "threads": float(process.num_threads()),
    }


def role_of(process: psutil.Process) -> str | None:
    """Which of ROLES it is; None for one that is none of them."""
    line = " ".join(process.cmdline())
    return next((role for role, word in ROLES.items() if word in line), None)


class Soak:
    """The run, watched."""

    def __init__(self, folder: Path, words: Sequence[str], kill_every: int) -> None:
        self.folder, self._kill_every = folder, kill_every
        self.looks: dict[str, list[Look]] = defaultdict(list)
        self.kills: list[int] = []
        self._read = self._done = 0
        self.given_up = False
        """Whether somebody wants it to end before its time; what there is by then is reported."""
        with open(folder / "command.log", "w") as output:
            command = [sys.executable, "-m", "rlscale", *words]
            self.process = subprocess.Popen(command, cwd=folder, stdout=output, stderr=subprocess.STDOUT)

    def rows(self) -> list[dict[str, Any]]:
        """The metrics of the iterations so far."""
        return [row for row in read(self.folder / "run" / "metrics.jsonl") if "weight_version" in row]

    def _count(self) -> int:
        """How many they are; only what is new is read, as a look at all of them would cost more and more."""
        with suppress(FileNotFoundError), open(self.folder / "run" / "metrics.jsonl", "rb") as file:
            file.seek(self._read)
            whole = file.read().rpartition(b"\n")[0]
            self._read += len(whole)
            self._done += whole.count(b'"weight_version"')
        return self._done

    def watch(self) -> None:
        """Look, and kill, until the run has ended."""
        while self.process.poll() is None and not self.given_up:
            done = self._count()
            for role, process in self._family():
                with suppress(psutil.NoSuchProcess):
                    if time.time() - process.create_time() > SETTLED_S:
                        self.looks[role].append(Look(done, looks_at(process)))
            if done >= self._kill_every * (len(self.kills) + 1):
                self._kill(done)
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(EVERY_S)

    def stop(self) -> None:
        """End it, if it still runs."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(60)
        self.process.kill()

    def _family(self) -> Iterator[tuple[str, psutil.Process]]:
        with suppress(psutil.NoSuchProcess):
            driver = psutil.Process(self.process.pid)
            yield DRIVER, driver
            for process in driver.children(recursive=True):
                with suppress(psutil.NoSuchProcess):
                    if (role := role_of(process)) is not None:
                        yield role, process

    def _kill(self, iteration: int) -> None:
        for role, process in self._family():
            if role == "engine":
                with suppress(psutil.NoSuchProcess):
                    os.kill(process.pid, signal.SIGKILL)
                    self.kills.append(iteration)


def grown(looks: Sequence[Look], name: str, iterations: int) -> tuple[float, float] | None:
    """The median of a quantity in the second and the last quarter of the run; None where there are too few looks."""
    second = [look.held[name] for look in looks if iterations / 4 <= look.iteration < iterations / 2]
    last = [look.held[name] for look in looks if look.iteration >= 3 * iterations / 4]
    return (median(second), median(last)) if second and last else None


def report(soak: Soak, iterations: int) -> bool:
    """Print what became of it; whether all is well."""
    rows, well = soak.rows(), soak.process.returncode == 0
    table = Table("process", "", "second quarter", "last quarter", "more", box=box.MARKDOWN)
    unseen = []
    for role in (*ROLES, DRIVER):
        for name in QUANTITIES:
            found = grown(soak.looks[role], name, len(rows))
            if found is None:
                unseen.append(f"{role}: {name}")
                continue
            more = found[1] / found[0] - 1 if found[0] else 0.0
            well &= more <= ALLOWED
            table.add_row(role, name, f"{found[0]:.1f}", f"{found[1]:.1f}", f"{more:+.1%}")
    Console(width=120).print(table)
    seen = [row["iteration"] for row in rows]
    well &= _in_order(seen) and len(seen) == iterations
    rewards = [row["reward"] for row in rows]
    quarter = max(len(rows) // 4, 1)
    before, after = fmean(rewards[quarter : 2 * quarter] or [0.0]), fmean(rewards[-quarter:] or [0.0])
    well &= after >= before - 0.02
    print(f"exit code {soak.process.returncode}, {len(rows)} iterations; each once and in order: {_in_order(seen)}")
    print(f"engine killed after iterations {soak.kills or 'none'}")
    if unseen:
        print(f"not seen in both quarters: {', '.join(unseen)}")
    well &= bool(soak.kills) and not unseen
    print(f"mean reward of the second quarter {before:.3f}, of the last {after:.3f}")
    last_row = rows[-1] if rows else {}
    accounts = [balance(last_row, "prompts", "drawn"), balance(last_row, "tokens", "received")]
    print("\n".join(accounts))
    return well and all(" = 0 " in account for account in accounts)


def _in_order(iterations: Sequence[int]) -> bool:
    return list(iterations) == list(range(1, len(iterations) + 1))


def balance(row: Mapping[str, Any], account: str, received: str) -> str:
    """An account of the run, with what came in against the sum of all fates."""
    entries = {name.partition("/")[2]: int(value) for name, value in row.items() if name.startswith(f"{account}/")}
    came = entries.pop(received, 0)
    fates = ", ".join(f"{name} {value}" for name, value in entries.items() if value)
    return f"{account}: {came} {received} - {sum(entries.values())} = {came - sum(entries.values())} ({fates})"


def main() -> int:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--iterations", type=int, default=5000)
    parser.add_argument("--kill-every", type=int, default=200)
    parser.add_argument("words", nargs="*", help="further words of the run's command line")
    options = parser.parse_args()
    kills = options.iterations // options.kill_every
    tenth = max(options.iterations // 10, 1)
    words = [f"run.iterations={options.iterations}", "run.output=run", "run.progress=plain", f"eval.every={tenth}"]
    # A rank keeps the memory of its first copy for later ones, so that one must come before the second quarter.
    words += [f"checkpoint.every={min(tenth, 100)}", f"cluster.engine_restarts={kills + 5}", *options.words]
    print(", ".join(f"{name} {value}" for name, value in describe_machine().items()), f"load {load_average()}")
    with tempfile.TemporaryDirectory() as place:
        soak = Soak(Path(place), words, options.kill_every)
        signal.signal(signal.SIGTERM, lambda *_: setattr(soak, "given_up", True))
        try:
            soak.watch()
        finally:
            soak.stop()
        well = report(soak, options.iterations)
        print("\n".join((Path(place) / "command.log").read_text().splitlines()[-3:]))
    return 0 if well else 1


if __name__ == "__main__":
    sys.exit(main())

"""A sweep: the runs of `-m`, one after the other, each a process of its own, and a table of them at the end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from types import FrameType
from typing import Any

from rlscale.config.composition.recipe_file import is_path
from rlscale.config.composition.sweep_expansion import differing
from rlscale.config.foreign_code import allowed_code
from rlscale.config.schema import Config
from rlscale.config.shown import say
from rlscale.observe.sweep_table import print_table
from rlscale.run.disk.run_folder import write_json
from rlscale.serve.guard import PR_SET_PDEATHSIG, prctl

GRACE_S = 30.0
"""Seconds that a run gets to write its checkpoint and end after Ctrl-C or SIGTERM."""

_SUMMARY_FIELDS = ("status", "eval_before", "eval_after", "wall_seconds")


@dataclass
class Entry:
    """One run of a sweep."""

    overrides: list[str]
    """What distinguishes it from the others."""
    output: Path
    command: list[str]
    exit_code: int | None = None
    summary: dict[str, Any] = field(default_factory=dict)

    def record(self) -> dict[str, Any]:
        """What sweep.json holds of it."""
        summary = {name: self.summary.get(name) for name in _SUMMARY_FIELDS}
        if summary["status"] is None:
            summary["status"] = "not started" if self.exit_code is None else f"failed (exit code {self.exit_code})"
        return {"overrides": self.overrides, "output": str(self.output), "exit_code": self.exit_code, **summary}


def run_sweep(configs: Sequence[Config], runs: Sequence[Sequence[str]], recipe: str | None, *, debug: bool) -> int:
    """Run composed and checked configurations; `runs` are their overrides. Returns 0 if every run returned 0.

    Runs write to `<run.output>/<n>`, or `<run.root>/<recipe>/<date-time>-<n>` where no output is given; sweep.json goes
    to `<run.output>` or `<run.root>/<recipe>/<date-time>-sweep`. A failed run does not stop the others; Ctrl-C and
    SIGTERM end the running one and leave the rest out.
    """
    folder, entries = plan(configs, runs, recipe, debug=debug)
    folder.mkdir(parents=True, exist_ok=True)
    stopped = _run_all(entries, folder)
    records = [entry.record() for entry in entries]
    print_table(records)
    how = "stopped" if stopped else "finished"
    say(f"sweep of {len(entries)} runs {how}: {folder / 'sweep.json'}")
    if stopped:
        return 128 + signal.SIGINT
    return 0 if all(entry.exit_code == 0 for entry in entries) else 1


def plan(
    configs: Sequence[Config], runs: Sequence[Sequence[str]], recipe: str | None, *, debug: bool
) -> tuple[Path, list[Entry]]:
    """The sweep's folder, and its runs with their commands."""
    now = datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    first = configs[0].run
    start = [sys.executable, "-m", "rlscale", *allowed_code()]
    if recipe is not None:
        start.append(f"recipe={Path(recipe).expanduser().absolute() if is_path(recipe) else recipe}")
    if debug:
        start.append("--debug")
    entries = []
    for number, (config, run, own) in enumerate(zip(configs, runs, differing(runs), strict=True)):
        if config.run.output is not None:
            output = Path(config.run.output) / str(number)
        else:
            output = Path(config.run.root) / config.run.recipe / f"{now}-{number}"
        kept = [text for text in run if not text.startswith("run.output=")]
        quoted = str(output).replace("\\", "\\\\").replace("'", "\\'")
        entries.append(Entry(own, output, [*start, *kept, f"run.output='{quoted}'"]))
    folder = Path(first.output) if first.output is not None else Path(first.root) / first.recipe / f"{now}-sweep"
    return folder, entries


def _run_all(entries: Sequence[Entry], folder: Path) -> bool:
    """Run the entries in turn, keeping sweep.json up to date. Returns whether somebody stopped the sweep."""
    turn = _Turn()
    before = {number: signal.signal(number, turn.stop) for number in (signal.SIGINT, signal.SIGTERM)}
    before[signal.SIGUSR1] = signal.signal(signal.SIGUSR1, turn.save)
    try:
        for number, entry in enumerate(entries):
            if turn.stopped_at is not None:
                break
            say(f"[{number + 1}/{len(entries)}] {' '.join(entry.overrides) or 'as the recipe says'}")
            entry.exit_code = turn.run(entry.command)
            entry.summary = _read_summary(entry.output)
            write_json(folder / "sweep.json", {"runs": [other.record() for other in entries]})
    finally:
        for signal_number, handler in before.items():
            signal.signal(signal_number, handler)
    return turn.stopped_at is not None


class _Turn:
    """The process of the running entry. A signal to the sweep is passed on to it, once."""

    def __init__(self) -> None:
        self.stopped_at: float | None = None
        self._process: subprocess.Popen[bytes] | None = None

    def run(self, command: Sequence[str]) -> int:
        """Run a command to its end. Its own process group: Ctrl-C in the terminal then reaches it only through here."""
        self._process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, process_group=0, preexec_fn=_end_with_parent(os.getpid())
        )
        while True:
            try:
                return self._process.wait(timeout=0.2)
            except subprocess.TimeoutExpired:
                if self.stopped_at is not None and time.monotonic() - self.stopped_at > GRACE_S:
                    os.killpg(self._process.pid, signal.SIGKILL)

    def save(self, number: int, frame: FrameType | None) -> None:
        """Signal handler: the running one is asked for a checkpoint."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(number)

    def stop(self, number: int, frame: FrameType | None) -> None:
        """Signal handler."""
        process = self._process
        if process is not None and process.poll() is None and self.stopped_at is None:
            process.send_signal(signal.SIGTERM)
        self.stopped_at = self.stopped_at or time.monotonic()


def _end_with_parent(parent: int) -> Callable[[], None]:
    """What a child runs before its program: ask the kernel for SIGTERM when the sweep dies, however it dies."""

    def ask() -> None:
        prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # it died before the question was asked
            os._exit(1)

    return ask


def _read_summary(output: Path) -> dict[str, Any]:
    try:
        summary = json.loads((output / "summary.json").read_text())
    except (OSError, ValueError):
        return {}
    return summary if isinstance(summary, dict) else {}

"""A command of rlscale, all processes that it ever started, and the phase that it is in."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

LAST_SPAN = {
    "generate": "evaluate",
    "log-probs": "generate",
    "train": "ref_logprobs",
    "sync": "train",
    "evaluate": "sync",
}
"""The span of the driver, or of a pass over the batch, whose end begins a phase."""
PHASES = (*LAST_SPAN, "save", "start", "stop")
_LAST_AT_THE_START = "sglang::scheduler"
"""Of the processes of a run this one comes last."""
_DRIVER = "rlscale command"
GONE_S = 15.0
_TAIL = 8192
"""Bytes of the timeline that are looked at."""


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

    @property
    def last(self) -> str:
        """The same, or else the last line."""
        return self.line or (self.text.strip().splitlines() or ["(nothing)"])[-1]


class FaultyRun:
    """A command in a folder. A context manager that leaves nothing behind.

    Its processes are forked from those of a `warm`, and known by their files in the folder.
    """

    def __init__(self, folder: Path, words: Sequence[str], forked_from: int) -> None:
        """`forked_from`: the process of that `warm`."""
        self.folder, self._began = folder.resolve(), time.time()
        self._warm = psutil.Process(forked_from)
        self._log = self.folder / f"command-{time.monotonic_ns()}.log"
        with open(self._log, "w") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "rlscale", *words], cwd=folder, stdout=output, stderr=subprocess.STDOUT
            )
        self._family = {self._process.pid: psutil.Process(self._process.pid)}
        self.ended_at: float | None = None
        """When the command ended, by the monotonic clock."""
        threading.Thread(target=self._note_end, daemon=True).start()

    def _note_end(self) -> None:
        self._process.wait()
        self.ended_at = time.monotonic()

    def __enter__(self) -> FaultyRun:
        return self

    def __exit__(self, *_: object) -> None:
        for one in self.family():
            with suppress(psutil.NoSuchProcess):
                one.kill()
        self._process.wait(20)

    @property
    def ended(self) -> bool:
        """Whether the command has."""
        return self._process.poll() is not None

    def family(self) -> list[psutil.Process]:
        """Those of them that live."""
        for process in list(self._family.values()):
            with suppress(psutil.NoSuchProcess):
                self._family |= {child.pid: child for child in process.children(recursive=True)}
        for process in self._warm.children(recursive=True):
            if process.pid not in self._family and self._is_ours(process):
                self._family[process.pid] = process
        return [one for one in self._family.values() if _lives(one)]

    def _is_ours(self, process: psutil.Process) -> bool:
        with suppress(OSError):
            files = Path(f"/proc/{process.pid}/fd").iterdir()
            return any(os.path.realpath(file).startswith(f"{self.folder}/") for file in files)
        return False

    def named(self, *words: str) -> list[psutil.Process]:
        """Those with one of the words in their command line; not the command itself, which stands in for the driver."""
        found = []
        for one in self.family():
            with suppress(psutil.NoSuchProcess):
                if one.pid != self._process.pid and any(word in " ".join(one.cmdline()) for word in words):
                    found.append(one)
        return found

    @property
    def _spans(self) -> list[str]:
        """Of the driver, and passes over batches, since the command began; the last ones of those that have ended."""
        with suppress(OSError, ValueError), open(self.folder / "run" / "timeline.jsonl", "rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL))
            records = [json.loads(line) for line in file.read().splitlines()[1:]]
            return [one["name"] for one in records if one["lane"] in ("driver", "passes") and one["end"] > self._began]
        return []

    @property
    def trained(self) -> int:
        """Iterations that are done, also those of earlier commands."""
        with suppress(OSError):
            return (self.folder / "run" / "metrics.jsonl").read_text().count('"weight_version"')
        return 0

    def await_trained(self, count: int, limit_s: float) -> bool:
        """Return once so many are; False if it ended before, or took too long."""
        return self._await(lambda: self.trained >= count, limit_s, 0.1)

    def await_phase(self, phase: str, limit_s: float, words: Sequence[Sequence[str]]) -> bool:
        """Return once it is in the phase, after an iteration; False if it ended before, or took too long.

        `start` begins when processes are there with one of each of the `words` in their command line.
        """
        if phase == "start":
            return self._await(lambda: self._has_started(words), limit_s, 0.1)
        return self._await(lambda: self._is_in(phase), limit_s, 0.01)

    def _await(self, condition: Callable[[], bool], limit_s: float, every_s: float) -> bool:
        deadline = time.monotonic() + limit_s
        while not self.ended and time.monotonic() < deadline:
            if condition():
                return True
            time.sleep(every_s)
        return False

    def _has_started(self, words: Sequence[Sequence[str]]) -> bool:
        return all(self.named(*((_LAST_AT_THE_START,) if _DRIVER in one or len(one) > 1 else one)) for one in words)

    def _is_in(self, phase: str) -> bool:
        if phase == "save":
            return bool(list((self.folder / "run" / "checkpoints").glob("partial-*")))
        spans = self._spans
        return "train" in spans and (phase == "stop" or spans[-1] == LAST_SPAN[phase])

    @property
    def last(self) -> str:
        """The last line that it has printed."""
        return (self._log.read_text().strip().splitlines() or ["(nothing)"])[-1]

    def signal(self, number: int) -> None:
        """To the command."""
        with suppress(ProcessLookupError):
            os.kill(self._process.pid, number)

    def end(self, limit_s: float) -> Ended:
        """Wait for it, at most so long, and see what it leaves."""
        began = time.monotonic()
        while not self.ended and time.monotonic() - began < limit_s:
            self.family()
            time.sleep(0.2)
        code = self._process.poll()
        seconds = (time.monotonic() if code is None else self.ended_at or time.monotonic()) - began
        deadline = time.monotonic() + (GONE_S if code is not None else 0.0)
        while self.family() and time.monotonic() < deadline:
            time.sleep(0.2)
        left = []
        for one in self.family():
            with suppress(psutil.NoSuchProcess):
                left.append(" ".join(one.cmdline())[:60])
                one.kill()
        self._process.wait(20)
        return Ended(code, seconds, self._log.read_text(), left if code is not None else [])


class Warm:
    """`python -m rlscale warm` within the block: each run starts from it in seconds."""

    def __init__(self, folder: Path) -> None:
        self.word = f"cluster.warm={folder / 'warm.json'}"
        with open(folder / "warm.log", "w") as output:
            command = [sys.executable, "-m", "rlscale", "warm", f"file={folder / 'warm.json'}"]
            self._process = subprocess.Popen(command, cwd=folder, stdout=output, stderr=subprocess.STDOUT)
        while not (folder / "warm.json").exists():
            assert self._process.poll() is None, (folder / "warm.log").read_text()
            time.sleep(0.1)

    @property
    def pid(self) -> int:
        """Of what the runs' processes are forked from."""
        return self._process.pid

    def __enter__(self) -> Warm:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.send_signal(signal.SIGTERM)
        self._process.wait(30)


def _lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False

"""One server below its guard: started, looked at, ended."""

from __future__ import annotations

import contextlib
import json
import os
import re
import select
import shutil
import subprocess
import sys
import tempfile
import threading
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path

from rlscale.serve import guard

_EXCEPTION = re.compile(r"[\w.]*(Error|Exception|Exit|Interrupt|Warning)(:|$)|[a-z_][\w.]*\.[A-Z]\w*: ")
"""A line after a traceback, as Python writes it: the class of the exception, and mostly what it says."""


class ServerProcess(ABC):
    """A server as its supervisor sees it, however it was started. It ends when the supervisor's process does."""

    pid: int | None
    """Process id of the server itself; None if it could not be started."""
    guard_pid: int
    """Process id of its guard."""

    def __init__(self, log: Path, scratch: Path) -> None:
        """Its output is appended to `log`. A folder of its own for temporary files is made in `scratch`."""
        self.log = log
        log.parent.mkdir(parents=True, exist_ok=True)
        scratch.mkdir(parents=True, exist_ok=True)
        self._temporary = Path(tempfile.mkdtemp(prefix="t", dir=scratch.resolve()))
        self._log_start = log.stat().st_size if log.exists() else 0

    @abstractmethod
    def exit_code(self) -> int | None:
        """None while the program runs, its exit code once it and all that it started are gone."""

    @abstractmethod
    def stop(self, timeout: float = 15.0) -> None:
        """End the program and everything below it. Returns when that is done; a second call does nothing."""

    def last_exception(self) -> str | None:
        """The line that names the last exception among what the program wrote since this start; None without one.

        An exit code says less: the program may kill itself after it has written why.
        """
        traced = self.log_tail(2000).rpartition("Traceback (most recent call last):")
        lines = traced[2].splitlines() if traced[1] else []
        return next((line.strip() for line in lines if _EXCEPTION.match(line)), None)

    def log_tail(self, lines: int = 15) -> str:
        """The last lines that the program wrote since this start, blank ones left out."""
        with contextlib.suppress(OSError), self.log.open("rb") as file:
            file.seek(self._log_start)
            text = file.read().decode(errors="replace")
            return "\n".join([line for line in text.splitlines() if line.strip()][-lines:])
        return ""


class GuardedProcess(ServerProcess):
    """A program with a guard as its parent, which is a process of this one's."""

    def __init__(
        self,
        command: Sequence[str],
        environment: Mapping[str, str],
        input_text: str,
        log: Path,
        scratch: Path,
        *,
        adopts: bool = True,
    ) -> None:
        """Start `command` with `input_text` as its standard input and its output appended to `log`.

        `scratch`: a folder of temporary files (its TMPDIR) is made there and removed with the process. Without `adopts`
        descendants that left the process group outlive the program; they must have guards of their own.
        """
        super().__init__(log, scratch)
        self._lock = threading.Lock()
        self._guard = subprocess.Popen(
            [sys.executable, "-I", "-S", guard.__file__],
            cwd=self._temporary,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C at the terminal is for the run, which then ends its servers in order
        )
        self.guard_pid = self._guard.pid
        order = {
            "command": list(command),
            "environment": dict(environment),
            "input": input_text,
            "folder": os.getcwd(),
            "log": os.path.abspath(log),
            "temporary": str(self._temporary),
            "adopts": adopts,
        }
        assert self._guard.stdin is not None
        self._guard.stdin.write(json.dumps(order).encode() + b"\n")
        self._guard.stdin.flush()  # and left open: its end tells the guard that this process is gone
        self.pid = self._read_pid()

    @property
    def socket_folder(self) -> str:
        """The program's TMPDIR, by a name short enough for Unix sockets."""
        return guard.socket_folder(str(self._temporary), self.guard_pid)

    def _read_pid(self) -> int | None:
        assert self._guard.stdout is not None
        ready, _, _ = select.select([self._guard.stdout], [], [], 30.0)
        line = self._guard.stdout.readline().strip() if ready else b""
        return int(line) if line else None

    def exit_code(self) -> int | None:
        with self._lock:
            return self._guard.poll()

    def stop(self, timeout: float = 15.0) -> None:
        with self._lock:
            assert self._guard.stdin is not None
            assert self._guard.stdout is not None
            with contextlib.suppress(BrokenPipeError):
                self._guard.stdin.close()
            try:
                self._guard.wait(timeout)
            except subprocess.TimeoutExpired:
                self._guard.kill()
                self._guard.wait()
            self._guard.stdout.close()
        shutil.rmtree(self._temporary, ignore_errors=True)  # done by the guard already, unless that was killed

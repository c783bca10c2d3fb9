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
from collections.abc import Mapping, Sequence
from pathlib import Path

from rlscale.serve import guard

SOCKET_ROOM = 70
"""Longest path of a folder for Unix sockets: their own limit is 107 bytes, and torch and zmq add up to 35."""


_EXCEPTION = re.compile(r"[\w.]*(Error|Exception|Exit|Interrupt|Warning)(:|$)|[a-z_][\w.]*\.[A-Z]\w*: ")
"""A line after a traceback, as Python writes it: the class of the exception, and mostly what it says."""


class GuardedProcess:
    """A program with a guard as its parent. Ends, with everything that it started, when this process does."""

    def __init__(
        self, command: Sequence[str], environment: Mapping[str, str], input_text: str, log: Path, scratch: Path
    ) -> None:
        """Start `command` with `input_text` as its standard input and its output appended to `log`.

        `scratch`: a folder of temporary files (its TMPDIR) is made there and removed with the process.
        """
        self.log = log
        log.parent.mkdir(parents=True, exist_ok=True)
        scratch.mkdir(parents=True, exist_ok=True)
        self._temporary = Path(tempfile.mkdtemp(prefix="t", dir=scratch.resolve()))
        self._log_start = log.stat().st_size if log.exists() else 0
        self._lock = threading.Lock()
        self._guard = subprocess.Popen(
            [sys.executable, "-I", "-S", guard.__file__],
            cwd=self._temporary,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C at the terminal is for the run, which then ends its servers in order
        )
        order = {
            "command": list(command),
            "environment": {**environment, "TMPDIR": self._socket_folder()},
            "input": input_text,
            "folder": os.getcwd(),
            "log": str(log.resolve()),
            "temporary": str(self._temporary),
        }
        assert self._guard.stdin is not None
        self._guard.stdin.write(json.dumps(order).encode() + b"\n")
        self._guard.stdin.flush()  # and left open: its end tells the guard that this process is gone
        self.pid = self._read_pid()

    def _socket_folder(self) -> str:
        """The temporary folder under a name short enough for Unix sockets: its own, or the guard's working folder."""
        if len(os.fsencode(self._temporary)) <= SOCKET_ROOM:
            return str(self._temporary)
        return f"/proc/{self._guard.pid}/cwd"

    def _read_pid(self) -> int | None:
        assert self._guard.stdout is not None
        ready, _, _ = select.select([self._guard.stdout], [], [], 30.0)
        line = self._guard.stdout.readline().strip() if ready else b""
        return int(line) if line else None

    @property
    def guard_pid(self) -> int:
        """Process id of the guard."""
        return self._guard.pid

    def exit_code(self) -> int | None:
        """None while the program runs, its exit code once it and all that it started are gone."""
        with self._lock:
            return self._guard.poll()

    def stop(self, timeout: float = 15.0) -> None:
        """End the program and everything below it. Returns when that is done; a second call does nothing."""
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

"""The driver's side of `reaper`: its process, and what that is told."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rlscale.run.processes import reaper

GRACE_S = 2.0
"""Seconds that processes get to end by themselves."""


class ReaperProcess:
    """Ends what a local Ray has started, should this process end without a word, and says what is known of that end.

    Start it before Ray.
    """

    def __init__(self, folder: Path | None) -> None:
        """`folder`: that of the session, which is removed then; None where the session is not this process's own."""
        self._folder = folder
        self._processes: list[tuple[int, str]] = []
        command = [sys.executable, "-I", "-S", reaper.__file__, str(os.getpid()), str(GRACE_S)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)
        self._order(starts=True)

    @property
    def pid(self) -> int:
        """Its process."""
        return self._process.pid

    def started(self, processes: Iterable[int], raylet: int | None) -> None:
        """Ray is up. `processes`: those to end; `raylet`: the one that this process is connected to, where known."""
        self._processes = when_started(pid for pid in processes if pid != self._process.pid)
        self._order(raylet=raylet)

    def stopping(self) -> None:
        """This process is about to end Ray, which is nothing to be told of."""
        self._order()

    def leave(self, processes: Iterable[int]) -> None:
        """Ray did not start: end these, and remove the folder, without this process."""
        self.started(processes, None)
        self._close()

    def dismiss(self) -> None:
        """There is nothing left to do."""
        self._write("done")
        self._close()
        self._process.wait()

    def _order(self, *, starts: bool = False, raylet: int | None = None) -> None:
        folder = None if self._folder is None else str(self._folder)
        self._write({"starts": starts, "processes": self._processes, "raylet": raylet, "folder": folder})

    def _write(self, order: Any) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):  # somebody killed it: nothing is left for it to do
            self._process.stdin.write(json.dumps(order).encode() + b"\n")
            self._process.stdin.flush()

    def _close(self) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()


def when_started(pids: Iterable[int]) -> list[tuple[int, str]]:
    """Those of the processes that are there, each with when it started."""
    return [(pid, began) for pid in pids if (began := reaper.start_time(pid)) is not None]

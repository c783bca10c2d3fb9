"""The driver's side of `reaper`: its process, and what that is told."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rlscale.run.processes import reaper


class ReaperProcess:
    """Ends what a local Ray has started, should this process be killed, and says so should Ray end it.

    Start it before Ray.
    """

    def __init__(self, folder: Path | None) -> None:
        """`folder`: that of the session, which is removed then; None where the session is not this process's own."""
        self._folder = folder
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", reaper.__file__], stdin=subprocess.PIPE, start_new_session=True
        )
        self._order(started=False)

    def started(self, processes: Iterable[int], raylet: int | None) -> None:
        """Ray is up. `processes`: those to end; `raylet`: the one that this process is connected to, where known."""
        others = [pid for pid in processes if pid != self._process.pid]
        self._order(started=True, processes=when_started(others), raylet=when_started([raylet] if raylet else []))

    def dismiss(self) -> None:
        """There is nothing left to do."""
        self._write("done")
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        self._process.wait()

    def _order(
        self, *, started: bool, processes: Iterable[tuple[int, str]] = (), raylet: Iterable[tuple[int, str]] = ()
    ) -> None:
        folder = None if self._folder is None else str(self._folder)
        order = {"processes": list(processes), "raylet": next(iter(raylet), None), "folder": folder}
        self._write({**order, "started": started})

    def _write(self, order: Any) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):  # somebody killed it: nothing is left for it to do
            self._process.stdin.write(json.dumps(order).encode() + b"\n")
            self._process.stdin.flush()


def when_started(pids: Iterable[int]) -> list[tuple[int, str]]:
    """Those of the processes that are there, each with when it started."""
    return [(pid, began) for pid in pids if (began := reaper.start_time(pid)) is not None]

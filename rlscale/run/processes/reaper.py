"""A tiny process that outlives the driver by a moment: it ends what a local Ray leaves behind after `kill -9`.

Ray's own processes notice the death of their driver, but some of them only after half a minute. The driver starts this
program with a pipe, tells it which processes and which folder belong to the session, and says "done" when it has ended
them itself. If the pipe closes without that word, the driver was killed, or Ray has ended it, which it does without a
line of ours where its own process dies at a bad moment: then this says so. Runs with the standard library only.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Mapping
from typing import Any

GRACE_S = 2.0
"""Seconds that processes get to end by themselves."""
RAY_DIED = (
    "Ray's own process on this machine (its raylet) has died, and with it those of the run; "
    "the same command resumes the run"
)
RAY_NOT_STARTED = "this command ended while Ray started, which may have said why; the same command starts anew"


def start_time(pid: int) -> str | None:
    """When a process started, in clock ticks since boot; None if it is gone. Tells a process from a later namesake."""
    stat = _stat(pid)
    return None if stat is None else stat[19]


def lives(pid: int, began: str) -> bool:
    """Whether that process is there, and has not ended either."""
    stat = _stat(pid)
    return stat is not None and stat[19] == began and stat[0] not in "ZX"


def _stat(pid: int) -> list[str] | None:
    """What /proc/PID/stat has behind the program's name; None if the process is gone."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()
    except OSError:
        return None


def why(order: Mapping[str, Any]) -> str | None:
    """What to say of a driver that ended without a word; None where it was not Ray that ended it."""
    if not order["started"]:
        return RAY_NOT_STARTED
    return RAY_DIED if order["raylet"] is not None and not lives(*order["raylet"]) else None


def main() -> None:
    """Wait for the driver's last word. See `ReaperProcess` for its orders, of which the last one counts."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the driver's to handle
    order = None
    for line in sys.stdin:
        order = json.loads(line)
        if order == "done":
            return
    if order is None:
        return
    if (said := why(order)) is not None:
        with contextlib.suppress(OSError):
            os.write(2, f"error: {said}\n".encode())
    time.sleep(GRACE_S)
    for pid, began in order["processes"]:
        if start_time(pid) == began:
            os.kill(pid, signal.SIGKILL)
    if order["folder"] is not None:
        shutil.rmtree(order["folder"], ignore_errors=True)


if __name__ == "__main__":
    main()

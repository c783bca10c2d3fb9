"""A tiny process that outlives the driver by a moment: it ends what a local Ray leaves behind after `kill -9`.

Ray's own processes notice the death of their driver, but some of them only after half a minute. The driver starts this
program with a pipe, tells it once which processes and which folder belong to the session, and says "done" when it has
ended them itself. If the pipe closes without that word, the driver was killed. Runs with the standard library only.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import time

GRACE_S = 2.0
"""Seconds that processes get to end by themselves."""


def start_time(pid: int) -> str | None:
    """When a process started, in clock ticks since boot; None if it is gone. Tells a process from a later namesake."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[19]
    except OSError:
        return None


def main() -> None:
    """Wait for the driver's last word."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the driver's to handle
    processes: dict[int, str] = {}
    folder = None
    for line in sys.stdin:
        order = json.loads(line)
        if order == "done":
            return
        processes = {int(pid): began for pid, began in order["processes"].items()}
        folder = order["folder"]
    time.sleep(GRACE_S)
    for pid, began in processes.items():
        if start_time(pid) == began:
            os.kill(pid, signal.SIGKILL)
    if folder is not None:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()

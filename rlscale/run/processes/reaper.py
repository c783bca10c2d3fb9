"""A tiny process that outlives the driver by a moment: it ends what a local Ray leaves behind after `kill -9`.

Ray's own processes notice the death of their driver, but some of them only after half a minute. The driver starts this
program with its own id, the seconds that processes get to end by themselves, and a pipe. It tells which processes and
which folder belong to the session, and says "done" when it has ended them itself. If the pipe closes without that word,
the driver was killed, or Ray has ended it, which it does without a line of ours where its own process dies at a bad
moment: this says so. Runs with the standard library only.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import signal
import sys
import time
from typing import Any

RAY_DIED = (
    "Ray's own process on this machine (its raylet) has died, and with it those of this command; "
    "the same command resumes a run"
)
ENDED = (
    "this command was ended without a word, by somebody or by Ray, whose own process on this machine (its raylet) is "
    "gone, too; the same command resumes a run"
)
RAY_NOT_STARTED = "this command was ended while it started Ray, which may have printed why; run it again"


def start_time(pid: int) -> str | None:
    """When a process started, in clock ticks since boot; None if it is gone. Tells a process from a later namesake."""
    stat = _stat(pid)
    return None if stat is None else stat[19]


def _stat(pid: int) -> list[str] | None:
    """What /proc/PID/stat has behind the program's name, of its main thread; None if the process is gone."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()
    except OSError:
        return None


class Orders:
    """What the driver says until its end, and whether Ray's own process ended before it.

    Ray has the kernel end its raylet with the driver, so that both are gone when a driver was killed: the order tells.
    """

    def __init__(self, driver: int) -> None:
        """`driver`: the process that gives them."""
        self._driver = driver
        self._raylet: int | None = None
        """A descriptor that can be read once the raylet has ended; None where there is nothing to be seen of it."""
        self.last: Any = None
        """The last order, None without any."""
        self.raylet_ended_first = False

    def hear(self) -> None:
        """Returns when the driver has ended, or has said that there is nothing to do."""
        heard = b""
        poll = select.poll()
        poll.register(0, select.POLLIN)
        while self.last != "done":
            ready = {descriptor for descriptor, _ in poll.poll()}
            if self._raylet in ready:
                poll.unregister(self._raylet)
                self.raylet_ended_first = self._driver_lives()
                self._raylet = None
            if 0 not in ready:
                continue
            if not (new := os.read(0, 1 << 16)):
                return
            *lines, heard = (heard + new).split(b"\n")
            for line in lines:
                self._take(json.loads(line), poll)

    def _take(self, order: Any, poll: select.poll) -> None:
        self.last = order
        if self._raylet is not None:
            poll.unregister(self._raylet)
            self._raylet = None
        if order == "done" or order["raylet"] is None:
            self.raylet_ended_first = False
            return
        with contextlib.suppress(OSError):  # it has ended meanwhile, or this kernel lets nobody watch
            self._raylet = os.pidfd_open(order["raylet"])
            poll.register(self._raylet, select.POLLIN)

    def _driver_lives(self) -> bool:
        stat = _stat(self._driver)
        return os.getppid() == self._driver and stat is not None and stat[0] not in "ZX"


def main() -> None:
    """Wait for the driver's last word. See `ReaperProcess` for its orders, of which the last one counts."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the driver's to handle
    orders = Orders(driver=int(sys.argv[1]))
    orders.hear()
    if (order := orders.last) in (None, "done"):
        return
    if order["starts"] or order["raylet"] is not None:
        # Where both had ended before this one got a core, nobody can say any more which one was the first.
        said = RAY_NOT_STARTED if order["starts"] else RAY_DIED if orders.raylet_ended_first else ENDED
        with contextlib.suppress(OSError):
            os.write(2, f"error: {said}\n".encode())
    time.sleep(float(sys.argv[2]))
    for pid, began in order["processes"]:
        if start_time(pid) == began:
            os.kill(pid, signal.SIGKILL)
    if order["folder"] is not None:
        shutil.rmtree(order["folder"], ignore_errors=True)


if __name__ == "__main__":
    main()

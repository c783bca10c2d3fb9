"""Whether Ray's own process on this machine, its raylet, lives: without it nothing of a run lives, or comes back.

Ray ends its driver without a word when the driver moves something through the object store of a raylet that is dead:
a batch on its way to the ranks, or a large result. That the machine is gone it says twelve seconds later. So this is
asked before.
"""

from __future__ import annotations

import os
import select
import socket
import struct
import weakref

from rlscale.run.processes.run_failed import RayDied

_CREDENTIALS = struct.Struct("3i")
"""Of the process at the other end of a Unix socket: its id, its user's and its group's."""


class RayletWatch:
    """Watches the process that listens on a Unix socket; one that is only stopped lives."""

    def __init__(self, path: str) -> None:
        self._path = path
        self.process: int | None = None
        """Its id; None where it is dead, or in a container of its own."""
        self._ended: select.poll | None = None
        with socket.socket(socket.AF_UNIX) as asking:
            try:
                asking.connect(path)
            except OSError:
                return
            said = asking.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        self.process = _CREDENTIALS.unpack(said)[0] or None
        if self.process is not None:
            self._watch(self.process)

    def _watch(self, process: int) -> None:
        try:
            opened = os.pidfd_open(process)
        except OSError:  # it has just ended, or this kernel does not let anybody watch: it is connected to each time
            return
        weakref.finalize(self, os.close, opened)
        self._ended = select.poll()
        self._ended.register(opened, select.POLLIN)

    @property
    def lives(self) -> bool:
        """Whether it is there."""
        return self._listens() if self._ended is None else not self._ended.poll(0)

    def _listens(self) -> bool:
        with socket.socket(socket.AF_UNIX) as asking:
            try:
                asking.connect(self._path)
            except (ConnectionRefusedError, FileNotFoundError):
                return False
            except OSError:  # something else is wrong, of which nobody has died
                return True
        return True

    def check(self) -> None:
        """RayDied where it is not."""
        if not self.lives:
            raise RayDied

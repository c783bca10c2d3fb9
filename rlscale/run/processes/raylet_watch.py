"""Whether Ray's own process on this machine, its raylet, lives: without it nothing of a run does, or comes back.

Ray ends its driver without a word where that puts something into the object store of a raylet that is dead, as a batch
on its way to the ranks is; that the machine is gone it says twelve seconds later. So this is asked before.
"""

from __future__ import annotations

import os
import select
import socket
import struct
import weakref
from collections.abc import Callable

from rlscale.config.errors import UserError

_CREDENTIALS = struct.Struct("3i")
"""Of the process at the other end of a Unix socket: its id, its user's and its group's."""


class RayletWatch:
    """Watches the process that listens on a Unix socket; one that is only stopped lives."""

    def __init__(self, path: str) -> None:
        self._ended = select.poll()
        self.close: Callable[[], object] = lambda: None
        """Watch no more."""
        with socket.socket(socket.AF_UNIX) as asking:
            try:
                asking.connect(path)
                said = asking.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
                process = os.pidfd_open(_CREDENTIALS.unpack(said)[0])
            except OSError:  # nobody listens, or not any more
                self._found = False
                return
        self._found = True
        self._ended.register(process, select.POLLIN)
        self.close = weakref.finalize(self, os.close, process)

    @property
    def lives(self) -> bool:
        """Whether it is there, from when this began to watch it."""
        return self._found and not self._ended.poll(0)

    def check(self) -> None:
        """UserError where it is not."""
        if not self.lives:
            raise UserError(
                "Ray's own process on this machine (its raylet) has died, and with it those of the run; "
                "the same command resumes the run"
            )

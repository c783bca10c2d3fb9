"""Lets Ray's own processes go on where somebody has stopped one (SIGSTOP): without them a run can neither work nor end.

A driver that waits for a stopped raylet or GCS does so inside Ray, where it hears no deadline. Both are the run's, as
long as it started Ray itself, so it may continue them.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import threading
from collections.abc import Mapping

from rlscale.run.processes.reaper import start_time
from rlscale.serve.pulse import Patience, stopped_of

_EVERY_S = 1.0
STOPPED_S = 3.0
"""How long a process may be stopped."""

_log = logging.getLogger(__name__)


class RayWaker:
    """Looks at processes in a thread of its own, until `close`; they are given by id, each with when it started."""

    def __init__(self, processes: Mapping[int, str]) -> None:
        self._processes = dict(processes)
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="Ray's processes", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Look no more."""
        self._ends.set()
        self._thread.join()

    def _watch(self) -> None:
        patience = Patience()
        while not self._ends.wait(_EVERY_S):
            stopped = [pid for pid in stopped_of([*self._processes]) if start_time(pid) == self._processes[pid]]
            if patience.look(bool(stopped)) < STOPPED_S:
                continue
            for pid in stopped:
                _log.warning("process %d of Ray had been stopped; it goes on", pid)
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signal.SIGCONT)

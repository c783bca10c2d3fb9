"""`breakpoint()` in a run that is one process: a debugger in its terminal."""

from __future__ import annotations

import os
import pdb
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rlscale.platform.no_terminal import CHOSEN
from rlscale.run.in_process.standing_clock import StandingClock


@contextmanager
def breakpoints(clock: StandingClock, stop: Callable[[], None]) -> Iterator[None]:
    """In the block `breakpoint()` opens a debugger in which time stands still; `stop` asks the run to stop.

    Where the user has chosen another one (PYTHONBREAKPOINT), that is opened, and deadlines go on.
    """
    if CHOSEN in os.environ:
        yield
        return
    debugger, before = Debugger(clock, stop), sys.breakpointhook
    sys.breakpointhook = debugger.open
    try:
        yield
    finally:
        sys.breakpointhook = before


class Debugger(pdb.Pdb):
    """Python's own, for a run: no deadline passes while it waits for a command, and to quit stops the run in order."""

    def __init__(self, clock: StandingClock, stop: Callable[[], None]) -> None:
        super().__init__(nosigint=True)  # Ctrl-C stops the run, here as everywhere
        self._clock, self._ask_to_stop, self._left = clock, stop, False
        self._one_at_a_time = threading.RLock()

    def open(self, *_: Any, **__: Any) -> None:
        """What `breakpoint()` calls."""
        if not self._left:
            self.set_trace(sys._getframe(1))

    def interaction(self, *where: Any) -> None:
        """Take commands; other threads wait with theirs."""
        with self._one_at_a_time, self._clock.standing():
            super().interaction(*where)

    def do_quit(self, arg: str) -> bool | None:
        """q(uit): the run saves what is done and stops, as after Ctrl-C; no breakpoint counts until then."""
        self._left = True
        self._ask_to_stop()
        self.clear_all_breaks()
        self.set_continue()
        return True

    do_q = do_exit = do_quit

    def do_EOF(self, arg: str) -> bool | None:  # noqa: N802 (the name by which cmd calls it)
        """The terminal is closed: nobody is there who would go on."""
        self.message("")
        return self.do_quit(arg)

"""Who holds the event loop: whether it still turns is watched, and where it stands if not is written to the log.

Two watchers, because there are two ways to hold it. Python code that never awaits leaves other threads their turn: a
thread looks at the stack of the loop's thread and names the function. A call into C that keeps the interpreter's lock,
such as a regular expression that backtracks for ever, lets no other thread run: only faulthandler's timer, which needs
no lock, can write then. It writes all stacks to the standard error stream, which is the log of the process.

A loop that says of itself that it is `virtual`, as that of a simulation, or not `watched`, as that of a run in one
process, is left alone: how late it is cannot be told from its turns. Any other is not, of whatever class it is: Ray
gives its actors one of uvloop, where that is installed.
"""

from __future__ import annotations

import asyncio
import faulthandler
import logging
import sys
import threading
import time
import traceback
from contextlib import suppress
from types import FrameType
from typing import TextIO

logger = logging.getLogger(__name__)


class LoopWatchdog:
    """Watches the running event loop from `start` to `stop`; `late_s` seconds without a turn are reported."""

    def __init__(self, late_s: float = 10.0, log: TextIO | None = None) -> None:
        self._late_s = late_s
        self._log = sys.stderr if log is None else log
        self._beat = time.monotonic()
        self._ended = threading.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin watching the loop that calls this, if it goes by real time."""
        loop = asyncio.get_running_loop()
        if getattr(loop, "virtual", False) or not getattr(loop, "watched", True):
            return
        self._beat = time.monotonic()
        self._task = asyncio.create_task(self._turn(), name="watchdog of the loop")
        threading.Thread(
            target=self._watch, args=(threading.get_ident(),), name="watchdog of the loop", daemon=True
        ).start()

    def stop(self) -> None:
        """End watching."""
        self._ended.set()
        if self._task is not None:
            self._task.cancel()
        faulthandler.cancel_dump_traceback_later()

    async def _turn(self) -> None:
        while not self._ended.is_set():
            self._beat = time.monotonic()
            # Put off again and again while the loop turns; without a file descriptor (a captured stream) it cannot be.
            with suppress(OSError, ValueError, AttributeError):
                faulthandler.dump_traceback_later(3 * self._late_s, repeat=True, file=self._log)
            await asyncio.sleep(self._late_s / 4)

    def _watch(self, thread: int) -> None:
        reported = 0.0
        while not self._ended.wait(self._late_s / 4):
            beat = self._beat
            late = time.monotonic() - beat
            if late < self._late_s or beat == reported:
                continue
            reported = beat
            frame = sys._current_frames().get(thread)
            logger.error("the event loop has not turned for %.0f s; %s", late, where(frame))


def where(frame: FrameType | None) -> str:
    """The function that a stack stands in, with file and line, and how it was reached."""
    if frame is None:
        return "its thread has ended"
    stack = traceback.extract_stack(frame)
    last = stack[-1]
    calls = " > ".join(entry.name for entry in stack[-6:])
    return f"it is held by {last.name} ({last.filename}, line {last.lineno}), reached by {calls}"

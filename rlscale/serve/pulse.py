"""Whether a server that runs still answers: one that is frozen or hangs ends nothing, it is only silent."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import psutil

from rlscale.serve.http import CallError, Unanswered, call

EVERY_S = 2.0
_LONGEST_GAP_S = 2.0
"""Longest time between two looks that counts as looked at: whoever stood still himself in between blames nobody."""
_JUDGED_OVER_S, _IDLE_SHARE = 1.0, 0.05
"""Over how long processes are looked at, and the share of a core below which they do nothing."""


def stopped_of(pids: Sequence[int]) -> list[int]:
    """Those of the processes of this machine that a signal has stopped; one under a debugger is not among them."""
    found = []
    for pid in pids:
        with contextlib.suppress(psutil.NoSuchProcess):
            if psutil.Process(pid).status() == psutil.STATUS_STOPPED:
                found.append(pid)
    return found


def family_of(pid: int) -> list[int]:
    """A process and all that descend from it."""
    try:
        return [pid, *(child.pid for child in psutil.Process(pid).children(recursive=True))]
    except psutil.NoSuchProcess:
        return []


def computed(pids: Sequence[int]) -> float:
    """Seconds of processor time that these processes have taken."""
    seconds = 0.0
    for pid in pids:
        with contextlib.suppress(psutil.NoSuchProcess):
            taken = psutil.Process(pid).cpu_times()
            seconds += taken.user + taken.system
    return seconds


def wants_a_core(pids: Sequence[int]) -> bool:
    """Whether a thread of these processes computes, or would if others left it a core."""
    for pid in pids:
        for told in Path(f"/proc/{pid}/task").glob("*/stat"):
            with contextlib.suppress(OSError, IndexError):
                if told.read_text().rpartition(")")[2].split()[0] == "R":
                    return True
    return False


class Patience:
    """How long something has gone on, in seconds of which somebody looked.

    Ctrl-Z, a laptop that slept and a long call of the looker are times in which nobody knows anything.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._looked = clock()
        self.seconds = 0.0

    def look(self, goes_on: bool) -> float:
        """Seconds up to now, where it still goes on, otherwise 0."""
        now = self._clock()
        self.seconds = self.seconds + min(now - self._looked, _LONGEST_GAP_S) if goes_on else 0.0
        self._looked = now
        return self.seconds


class Activity:
    """Whether processes compute or want to, judged over a second at least, however often somebody looks."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._before: tuple[float, float] | None = None
        self._idle = False

    def is_idle(self, pids: Sequence[int]) -> bool:
        """Whether they took less than a twentieth of a core lately, and none waits for one now.

        False at the first looks, of which nobody knows.
        """
        now = (self._clock(), computed(pids))
        if self._before is None:
            self._before = now
        elif (seconds := now[0] - self._before[0]) >= _JUDGED_OVER_S:
            self._idle = now[1] - self._before[1] < _IDLE_SHARE * seconds
            self._before = now
        return self._idle and not wants_a_core(pids)


class Pulse:
    """Asks a server again and again whether it is there, in a thread, as long as somebody looks."""

    def __init__(self, ask: Callable[[], None], clock: Callable[[], float] = time.monotonic) -> None:
        """`ask` returns once there is an answer, of whatever kind, and raises CallError when it gives up."""
        self._ask = ask
        self._clock = clock
        self._patience = Patience(clock)
        self._asking: threading.Thread | None = None
        self._answered = True
        self._asked = -EVERY_S

    def silence(self) -> float:
        """For how many seconds a question has been without an answer; 0 if the last one had one."""
        waiting = self._asking is not None and self._asking.is_alive()
        if not waiting and self._clock() - self._asked >= EVERY_S:
            silent = not self._answered
            self._asked, self._answered = self._clock(), False
            self._asking = threading.Thread(target=self._question, daemon=True)
            self._asking.start()
            return self._patience.look(silent)
        return self._patience.look(not self._answered)

    def _question(self) -> None:
        try:
            self._ask()
        except CallError:
            return
        self._answered = True


def answers(url: str, path: str, api_key: str | None, timeout_s: float) -> None:
    """Returns once the server at `url` has answered anything at all. CallError if it has not within `timeout_s`."""
    try:
        call(url, path, api_key, timeout=timeout_s)
    except Unanswered:
        raise
    except CallError:
        return  # an engine of another kind may know nothing there, and says so

"""Whether a server that runs still answers: one that is frozen or hangs ends nothing, it is only silent."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

import psutil

from rlscale.serve.http import CallError, Unanswered, call

EVERY_S = 2.0
_LONGEST_GAP_S = 2.0
"""Longest time between two looks that counts as looked at: whoever stood still himself in between blames nobody."""
_JUDGED_OVER_S, _IDLE_SHARE, _STARVED_SHARE = 1.0, 0.05, 0.5
"""Over how long processes are looked at, and the shares of a core below which they do nothing, and too little."""
_COMPILERS = frozenset(("nvcc", "cicc", "ptxas", "ninja", "cc1plus", "c++", "g++", "gcc", "clang", "clang++"))


def stopped_of(pids: Sequence[int]) -> list[int]:
    """Those of the processes of this machine that a signal has stopped; one under a debugger is not among them."""
    found = []
    for pid in pids:
        with contextlib.suppress(psutil.NoSuchProcess):
            if psutil.Process(pid).status() == psutil.STATUS_STOPPED:
                found.append(pid)
    return found


def families_of(pids: Collection[int]) -> dict[int, list[int]]:
    """Each of these processes with all that descend from it, found in one walk over the machine's processes."""
    if not pids:
        return {}
    children: dict[int, list[int]] = defaultdict(list)
    there = set()
    for process in psutil.process_iter(["ppid"]):
        there.add(process.pid)
        children[process.info["ppid"]].append(process.pid)
    families = {}
    for pid in pids:
        family = [pid] if pid in there else []
        for member in family:  # it grows
            family += children.get(member, ())
        families[pid] = family
    return families


def computed(pids: Sequence[int]) -> float:
    """Seconds of processor time that these processes have taken."""
    seconds = 0.0
    for pid in pids:
        with contextlib.suppress(psutil.NoSuchProcess):
            taken = psutil.Process(pid).cpu_times()
            seconds += taken.user + taken.system
    return seconds


def compiles(pids: Sequence[int]) -> bool:
    """Whether one of these processes is a compiler, whose end a first step may wait for."""
    for pid in pids:
        with contextlib.suppress(psutil.NoSuchProcess):
            if psutil.Process(pid).name() in _COMPILERS:
                return True
    return False


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


class Spells:
    """For how long something usually does not get on before it does."""

    def __init__(self) -> None:
        self._now = 0.0
        self.longest = 0.0
        """Seconds of the longest spell that has ended."""

    def heed(self, seconds: float) -> None:
        """For how long it has not got on now."""
        if seconds < self._now:
            self.longest = max(self.longest, self._now)
        self._now = seconds

    def forgive(self) -> None:
        """The present spell says nothing about it."""
        self._now = 0.0


class Activity:
    """Whether processes compute or want to, judged over a second at least, however often somebody looks."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._before: tuple[float, float] | None = None
        self._share: float | None = None
        """Cores that they had."""

    @property
    def starves(self) -> bool:
        """Whether they had less than half a core at the last look, or nobody knows."""
        return self._share is None or self._share < _STARVED_SHARE

    def is_idle(self, pids: Sequence[int]) -> bool:
        """Whether they took less than a twentieth of a core lately, and none waits for one now.

        False at the first looks, of which nobody knows.
        """
        now = (self._clock(), computed(pids))
        if self._before is None:
            self._before = now
        elif (seconds := now[0] - self._before[0]) >= _JUDGED_OVER_S:
            self._share = (now[1] - self._before[1]) / seconds
            self._before = now
        return self._share is not None and self._share < _IDLE_SHARE and not wants_a_core(pids)


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


def answers(url: str, path: str, api_key: str | None, timeout_s: float) -> Any:
    """What the server at `url` answers, None for an error. CallError if it has not answered within `timeout_s`."""
    try:
        return call(url, path, api_key, timeout=timeout_s)
    except Unanswered:
        raise
    except CallError:
        return None  # an engine of another kind may know nothing there, and says so

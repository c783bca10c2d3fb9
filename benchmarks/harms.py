"""What befalls processes in benchmarks/faults.py: each fault is a context manager, which ends what it began.

Each is given the processes, and a factor of the time that it lasts.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path

import psutil

STARVED_S = 30.0
STARVED_SHARE = 0.05
"""Of one core, for all processes that starve together."""
STOPPED_S = 20.0
LIMITED_S = 10.0
"""For so long at least there is no disk, or no memory, to be had."""
_CGROUPS = (Path("/sys/fs/cgroup/cpu"), Path("/sys/fs/cgroup"))
"""Where version 1 and version 2 of control groups have the limits of processor time."""
_PERIOD_US = 100_000
_MORE_MEMORY = 4 << 20

Harm = Callable[[Sequence[psutil.Process], float], AbstractContextManager[None]]


def _each(processes: Sequence[psutil.Process], what: Callable[[psutil.Process], object]) -> None:
    for one in processes:
        with suppress(psutil.NoSuchProcess, ProcessLookupError):
            what(one)


@contextmanager
def killed(processes: Sequence[psutil.Process], scale: float) -> Iterator[None]:
    """`kill -9`."""
    _each(processes, psutil.Process.kill)
    yield


@contextmanager
def stopped(processes: Sequence[psutil.Process], scale: float) -> Iterator[None]:
    """SIGSTOP for ever."""
    _each(processes, psutil.Process.suspend)
    yield


@contextmanager
def stopped_a_while(processes: Sequence[psutil.Process], scale: float) -> Iterator[None]:
    """SIGSTOP, and SIGCONT after `STOPPED_S`."""
    try:
        _each(processes, psutil.Process.suspend)
        time.sleep(STOPPED_S * scale)
    finally:
        _each(processes, psutil.Process.resume)
    yield


@contextmanager
def starved(processes: Sequence[psutil.Process], scale: float) -> Iterator[None]:
    """All of them, and what they start, get a twentieth of a core, for `STARVED_S`. As root."""
    root = next(place for place in _CGROUPS if (place / "cgroup.procs").exists())
    group = root / f"faults-{time.monotonic_ns()}"
    group.mkdir()
    try:
        if (group / "cpu.cfs_quota_us").exists():
            (group / "cpu.cfs_quota_us").write_text(str(int(_PERIOD_US * STARVED_SHARE)))
        else:
            (group / "cpu.max").write_text(f"{int(_PERIOD_US * STARVED_SHARE)} {_PERIOD_US}")
        try:
            _each(processes, lambda one: (group / "cgroup.procs").write_text(str(one.pid)))
            time.sleep(STARVED_S * scale)
        finally:
            for pid in (group / "cgroup.procs").read_text().split():
                with suppress(OSError):
                    (root / "cgroup.procs").write_text(pid)
        yield
    finally:
        with suppress(OSError):
            group.rmdir()


@contextmanager
def disk_full(processes: Sequence[psutil.Process], scale: float) -> Iterator[None]:
    """No file of theirs grows for a while: as if its disk were full (EFBIG in the place of ENOSPC)."""
    with _limited(psutil.RLIMIT_FSIZE, dict.fromkeys(processes, 0), LIMITED_S * scale):
        yield


@contextmanager
def out_of_memory(processes: Sequence[psutil.Process], scale: float) -> Iterator[None]:
    """They are given no more memory than they have, for a while."""
    most = {}
    for one in processes:
        with suppress(psutil.NoSuchProcess):
            most[one] = one.memory_info().vms + _MORE_MEMORY
    with _limited(psutil.RLIMIT_AS, most, LIMITED_S * scale):
        yield


@contextmanager
def _limited(what: int, most: dict[psutil.Process, int], before_s: float) -> Iterator[None]:
    """A limit on a resource of each, from so long before the block to its end."""
    before = {}
    try:
        for one, limit in most.items():
            with suppress(psutil.NoSuchProcess, ProcessLookupError):
                before[one] = one.rlimit(what)
                one.rlimit(what, (limit, before[one][1]))
        time.sleep(before_s)
        yield
    finally:
        for one, limits in before.items():
            with suppress(psutil.NoSuchProcess, ProcessLookupError):
                one.rlimit(what, limits)


FAULTS: dict[str, Harm] = {
    "kill": killed,
    "stop": stopped,
    "stop 20 s": stopped_a_while,
    "starved": starved,
    "disk full": disk_full,
    "out of memory": out_of_memory,
}
LASTS_S = {
    "kill": 0.0,
    "stop": 20.0,
    "stop 20 s": STOPPED_S,
    "starved": STARVED_S,
    "disk full": LIMITED_S,
    "out of memory": LIMITED_S,
}
"""How long nothing can get better; what is stopped for ever is noticed after `cluster.answer_timeout_s`."""


def can_starve() -> bool:
    """Whether this user may make groups with a share of a core of their own."""
    return any(os.access(place, os.W_OK) for place in _CGROUPS if (place / "cgroup.procs").exists())

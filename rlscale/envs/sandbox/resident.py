"""How much memory a process and all that it has started hold together, as /proc tells it."""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress


def can_look() -> bool:
    """Whether this kernel's /proc tells the children of a process (CONFIG_PROC_CHILDREN, which distributions have)."""
    return os.path.exists("/proc/thread-self/children")


def holds_more(pid: int, most: int) -> bool:
    """Whether the process and its descendants hold over `most` bytes that are their own, or are shared and of no file.

    What several of them share is counted once, where the kernel lets us ask for that; asking takes longer, so that it
    is done only where the sum of all is too much.
    """
    family = _family(pid)
    return sum(map(_resident, family)) > most and sum(map(_share, family)) > most


def _family(pid: int) -> list[int]:
    found, ahead = [], [pid]
    while ahead:
        one = ahead.pop()
        found.append(one)
        with suppress(OSError):  # it has ended
            for thread in os.listdir(f"/proc/{one}/task"):
                with open(f"/proc/{one}/task/{thread}/children") as file:
                    ahead += map(int, file.read().split())
    return found


def _resident(pid: int) -> int:
    """Bytes of the process that are of no file, also those that it shares with others (`mmap.mmap(-1, size)`); 0 if it
    has ended."""
    try:
        with open(f"/proc/{pid}/status") as file:
            return _kilobytes(file, ("RssAnon:", "RssShmem:")) * 1024
    except (OSError, ValueError):
        return 0


def _share(pid: int) -> int:
    """The same, each page divided by the number of processes that have it."""
    try:
        with open(f"/proc/{pid}/smaps_rollup") as file:
            return _kilobytes(file, ("Pss_Anon:", "Pss_Shmem:")) * 1024
    except (OSError, ValueError):  # it has ended, or may not be asked
        return _resident(pid)


def _kilobytes(lines: Iterable[str], names: tuple[str, ...]) -> int:
    """The sum of what these lines say. ValueError where one is not there."""
    found = [int(line.split()[1]) for line in lines if line.startswith(names)]
    if len(found) != len(names):
        raise ValueError(f"there is no {' or no '.join(names)}")
    return sum(found)

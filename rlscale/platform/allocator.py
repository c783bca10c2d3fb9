"""How a rank's process on the CPU allocates memory: environment variables, which are read when it starts."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path

_GLIBC = "GLIBC_TUNABLES"
_JEMALLOC = "MALLOC_CONF"
_PRELOAD = "LD_PRELOAD"
_RAYS = Path("ray/core/libjemalloc.so")


def allocator_environment() -> dict[str, str]:
    """jemalloc, as it comes with Ray; elsewhere or without it glibc. Both keep freed memory, in huge pages.

    If this process has tunables of its own for one of them, or preloads something, those are given on, also where Ray
    was started without them. Other C libraries ignore all that.
    """
    given = {name: os.environ[name] for name in (_GLIBC, _PRELOAD, _JEMALLOC) if name in os.environ}
    ours = _ours()
    if _GLIBC in given or _PRELOAD in given:  # the user has chosen
        ours = {_GLIBC: ours[_GLIBC]}
    return {**ours, **given}


def keep_allocator() -> None:
    """Have the processes that this one starts allocate as they like: how a rank does is its own matter.

    They may be anybody's programs. What the user has set stays.
    """
    ours = _ours()
    preloaded = Path(os.environ.get(_PRELOAD, ""))
    if preloaded.parts[-len(_RAYS.parts) :] == _RAYS.parts:  # also that of another machine's driver
        ours[_PRELOAD] = str(preloaded)
    for name, value in ours.items():
        if os.environ.get(name) == value:
            del os.environ[name]


def _ours() -> dict[str, str]:
    # As it comes, glibc maps every tensor of more than 32 MiB anew and unmaps it when it is freed, so that each of
    # a step's activations pays a page fault for every 4 KiB: up to a third of the step's time. Whether a smaller
    # one does depends on what was freed before. Kept in the heap, a step makes next to no faults.
    tunables = {"hugetlb": 1, "mmap_max": 0, "trim_threshold": 2**40}
    allocator = {_GLIBC: ":".join(f"glibc.malloc.{name}={value}" for name, value in tunables.items())}
    if (jemalloc := _rays_jemalloc()) is not None:
        # Torch asks for aligned memory, for which glibc takes the heap to pieces that it does not put together again:
        # with micro-batches of other lengths in each step a rank grows for thousands of steps. One arena is for all
        # threads, as what a thread frees is kept for its arena alone, and each save has a new thread.
        keep = "narenas:1,dirty_decay_ms:-1,muzzy_decay_ms:-1,oversize_threshold:0,thp:always"
        allocator |= {_PRELOAD: str(jemalloc), _JEMALLOC: keep}
    return allocator


def _rays_jemalloc() -> Path | None:
    """Ray has it for its own processes, in its builds for Linux."""
    found = find_spec("ray")
    library = Path(found.origin).parents[1] / _RAYS if found and found.origin else None
    return library if library is not None and library.exists() else None

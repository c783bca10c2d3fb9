"""Environment variables that the processes of trainer ranks must be started with."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path

from rlscale.config.schema.cluster_config import Device

_GLIBC = "GLIBC_TUNABLES"
_JEMALLOC = "MALLOC_CONF"
_PRELOAD = "LD_PRELOAD"

WAIT_POLICY = "PASSIVE"
"""Threads that wait for each other sleep. As it comes they spin, which on cores that are shared with the other phase's
processes makes two threads slower than one."""


def rank_environment(device: Device, threads: int) -> dict[str, str]:
    """Variables for a rank's process; most are read only once, when it starts.

    On the CPU a rank allocates by the jemalloc that comes with Ray, elsewhere or without it by glibc; both are told to
    keep freed memory (`Platform.empty_cache` gives it back) and to ask for huge pages. If this process has tunables of
    its own for one of them, or preloads something, a rank has those, also where Ray was started without them. Other C
    libraries ignore all that.
    """
    environment = {"OMP_NUM_THREADS": str(threads)}
    if device is Device.cpu:
        environment["OMP_WAIT_POLICY"] = WAIT_POLICY
        environment |= _allocator()
    return environment


def _allocator() -> dict[str, str]:
    # As it comes, glibc maps every tensor of more than 32 MiB anew and unmaps it when it is freed, so that each of
    # a step's activations pays a page fault for every 4 KiB: up to a third of the step's time. Whether a smaller
    # one does depends on what was freed before. Kept in the heap, a step makes next to no faults.
    tunables = {"hugetlb": 1, "mmap_max": 0, "trim_threshold": 2**40}
    ours = ":".join(f"glibc.malloc.{name}={value}" for name, value in tunables.items())
    allocator = {_GLIBC: os.environ.get(_GLIBC, ours)}
    if _PRELOAD in os.environ:
        allocator[_PRELOAD] = os.environ[_PRELOAD]
    elif _GLIBC not in os.environ and (jemalloc := _rays_jemalloc()) is not None:
        # Torch asks for aligned memory, for which glibc takes the heap to pieces that it does not put together again:
        # with micro-batches of ever other lengths a rank grows by hundreds of MB over thousands of steps.
        keep = "dirty_decay_ms:-1,muzzy_decay_ms:-1,oversize_threshold:0,thp:always"
        allocator |= {_PRELOAD: str(jemalloc), _JEMALLOC: os.environ.get(_JEMALLOC, keep)}
    return allocator


def _rays_jemalloc() -> Path | None:
    """Ray has it for its own processes, in its builds for Linux."""
    found = find_spec("ray")
    library = Path(found.origin).parent / "core" / "libjemalloc.so" if found and found.origin else None
    return library if library is not None and library.exists() else None

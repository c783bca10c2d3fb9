"""Environment variables that the processes of trainer ranks must be started with."""

from __future__ import annotations

import os

from rlscale.config.schema.cluster_config import Device

_MALLOC = "GLIBC_TUNABLES"

WAIT_POLICY = "PASSIVE"
"""Threads that wait for each other sleep. As it comes they spin, which on cores that are shared with the other phase's
processes makes two threads slower than one."""


def rank_environment(device: Device, threads: int) -> dict[str, str]:
    """Variables for a rank's process; most are read only once, when it starts.

    On the CPU glibc is told to keep freed memory (`Platform.empty_cache` gives it back) and to ask for huge pages; if
    this process has tunables of its own for it, a rank has those, also where Ray was started without them. Other C
    libraries ignore that.
    """
    environment = {"OMP_NUM_THREADS": str(threads)}
    if device is Device.cpu:
        environment["OMP_WAIT_POLICY"] = WAIT_POLICY
        # As it comes, glibc maps every tensor of more than 32 MiB anew and unmaps it when it is freed, so that each of
        # a step's activations pays a page fault for every 4 KiB: up to a third of the step's time. Whether a smaller
        # one does depends on what was freed before. Kept in the heap, a step makes next to no faults.
        tunables = {"hugetlb": 1, "mmap_max": 0, "trim_threshold": 2**40}
        ours = ":".join(f"glibc.malloc.{name}={value}" for name, value in tunables.items())
        environment[_MALLOC] = os.environ.get(_MALLOC, ours)
    return environment

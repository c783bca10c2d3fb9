"""Environment variables that the processes of trainer ranks must be started with."""

from __future__ import annotations

from rlscale.config.schema.cluster_config import Device
from rlscale.platform.allocator import allocator_environment

WAIT_POLICY = "PASSIVE"
"""Threads that wait for each other sleep. As it comes they spin, which on cores that are shared with the other phase's
processes makes two threads slower than one."""


def rank_environment(device: Device, threads: int) -> dict[str, str]:
    """Variables for a rank's process; most are read only once, when it starts.

    On the CPU that is also how it allocates (`allocator_environment`); `Platform.empty_cache` gives back what it keeps.
    """
    environment = {"OMP_NUM_THREADS": str(threads)}
    if device is Device.cpu:
        environment |= {"OMP_WAIT_POLICY": WAIT_POLICY, **allocator_environment()}
    return environment

"""Environment variables that the processes of trainer ranks must be started with."""

from __future__ import annotations

from rlscale.config.schema.cluster import Device


def rank_environment(device: Device, threads: int) -> dict[str, str]:
    """Variables for a rank's process; most are read only once, when it starts."""
    environment = {"OMP_NUM_THREADS": str(threads)}
    if device is Device.cpu:
        # A large tensor's memory goes back to the system when it is freed, and the next one pays a page fault for every
        # 4 KiB: up to a third of a step's time. In huge pages it is one for every 2 MiB (torch's own switch).
        environment["THP_MEM_ALLOC_ENABLE"] = "1"
    return environment

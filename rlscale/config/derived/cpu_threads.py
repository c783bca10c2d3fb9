"""How ranks and engines share the cores of a machine without a GPU."""

from __future__ import annotations

import os

from rlscale.config.derived.sizes import Sizes
from rlscale.config.schema import Config
from rlscale.config.schema.cluster_config import Device, Placement


def trainer_threads(config: Config) -> int:
    """Threads of one rank: as configured, or its share of the cores."""
    if config.trainer.threads is not None:
        return config.trainer.threads
    sizes = Sizes.of(config)
    return _share(config, sizes.trainer_ranks, beside=sizes.all_engines)


def engine_threads(config: Config) -> int:
    """Threads of one engine: as configured, or its share of the cores."""
    if config.rollout.threads_per_engine is not None:
        return config.rollout.threads_per_engine
    sizes = Sizes.of(config)
    return _share(config, sizes.all_engines, beside=sizes.trainer_ranks)


def _share(config: Config, count: int, *, beside: int) -> int:
    """Cores for each of `count` processes. Colocated, they have all of them while the others wait; 1 on GPUs, and
    with `run.bitwise`, as a sum over threads depends on their number."""
    if config.cluster.device is not Device.cpu or config.run.bitwise:
        return 1
    sharing = count + beside * (config.cluster.placement is Placement.disaggregated)
    return max(1, len(os.sched_getaffinity(0)) // max(1, sharing))

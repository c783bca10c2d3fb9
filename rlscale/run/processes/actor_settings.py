"""What the Ray actors of a run are started with, by the configuration and the layout alone."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from rlscale.config.derived.cpu_threads import trainer_threads
from rlscale.config.schema import Config
from rlscale.config.schema.cluster_config import ClusterConfig
from rlscale.platform.process_environment import rank_environment
from rlscale.run.processes.placement import Layout

OWN_GPUS = {"RAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES": "1"}
"""Ray leaves the GPUs that an actor sees as they are: which one is whose the layout says."""

_GLOO = "GLOO_SOCKET_IFNAME"
"""torch's variable for the interface that gloo listens on; else it is that of the machine's name."""

ROLLOUT_ENVIRONMENT = {"OMP_NUM_THREADS": "1"}


@dataclass(frozen=True)
class RankSettings:
    """One trainer rank."""

    rank: int
    node: int
    """Number of its machine."""
    local: int
    """Number of its GPU there; 0 on the CPU."""
    log: Path
    threads: int
    environment: Mapping[str, str]


def rank_settings(config: Config, layout: Layout, logs: Path) -> list[RankSettings]:
    """Every trainer rank of the layout, with its log in that folder."""
    threads = trainer_threads(config)
    environment = {**rank_environment(config.cluster.device, threads), **OWN_GPUS}
    one_machine = len({slot.node for slot in layout.ranks}) == 1
    elsewhere = config.rollout.engine_urls or config.rollout.engines_at_most is not None  # engines, by now or later
    if one_machine and not elsewhere and _GLOO not in os.environ:
        environment[_GLOO] = "lo"  # nobody else is to reach the ranks; engines elsewhere would have to
    return [
        RankSettings(rank, slot.node, slot.gpus[0] if slot.gpus else 0, logs / f"rank-{rank}.log", threads, environment)
        for rank, slot in enumerate(layout.ranks)
    ]


def launcher_log(node: int) -> str:
    """Name of the log of a machine's launcher."""
    return f"launcher-{node}.log"


def reserved_gpus(cluster: ClusterConfig, node: int, reserved: frozenset[int]) -> int:
    """GPUs that a launcher reserves against the cluster's other jobs; `reserved`: machines of which another did."""
    return 0 if node in reserved else cluster.gpus_per_node

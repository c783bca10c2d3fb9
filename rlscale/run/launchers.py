"""The actor of each machine that supervises its servers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from rlscale.config.schema import Config
from rlscale.run.actor_settings import OWN_GPUS
from rlscale.run.actors import LauncherActor


def start_launcher(
    config: Config, node: str, gpus: float, log: Path, scratch: Path, api_key: str, fork_server: str | None
) -> Any:
    """The actor on the machine that Ray knows by the id `node`, of which it reserves so many GPUs."""
    actor: Any = ray.remote(LauncherActor)
    options = {
        "num_cpus": 0,
        "num_gpus": gpus,
        "max_concurrency": 8,
        "scheduling_strategy": NodeAffinitySchedulingStrategy(node, soft=False),
        "runtime_env": {"env_vars": dict(OWN_GPUS)},
    }
    return actor.options(**options).remote(
        log.name, str(log.parent), str(scratch), api_key, config.cluster.host, fork_server, config.rollout.engine
    )

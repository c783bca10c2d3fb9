"""The actor of each machine that supervises its servers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rlscale.config.schema import Config
from rlscale.run.actor_host import ActorHost, Place
from rlscale.run.actor_settings import OWN_GPUS
from rlscale.run.actors import LauncherActor


def start_launcher(
    host: ActorHost,
    config: Config,
    node: str,
    gpus: int,
    log: Path,
    scratch: Path,
    api_key: str,
    fork_server: str | None,
) -> Any:
    """The actor on the machine that Ray knows by the id `node`, of which it reserves so many GPUs."""
    place = Place(node, {"env_vars": dict(OWN_GPUS)}, concurrency=8, gpus=gpus)
    told = log.name, str(log.parent), str(scratch), api_key, config.cluster.host, fork_server, config.rollout.engine
    return host.start(LauncherActor, place, *told)

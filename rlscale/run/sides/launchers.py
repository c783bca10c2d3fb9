"""The actor of each machine that supervises its servers: started, and ended with whatever it has started."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlscale.config.schema import Config
from rlscale.run.processes.actor_host import Place
from rlscale.run.processes.actor_settings import OWN_GPUS, launcher_log, reserved_gpus
from rlscale.run.processes.actors import LauncherActor
from rlscale.run.processes.remote_calls import Calls

LOOPBACK = "127.0.0.1"
"""Where routers listen: who asks one is on its machine, and tells the launcher there where it is on another one."""
AT_ONCE = 6
"""What a launcher is given to do at once that takes time."""
_ANSWERS_BESIDE = 2
"""How many questions it answers meanwhile: how its servers are, what they do."""
_STOPPED_S = 8.0
"""How long servers may take to end."""


@dataclass(frozen=True)
class Supervised:
    """What the servers of a machine have in common."""

    logs: Path
    scratch: Path
    api_key: str
    fork_server: str | None
    reserved: frozenset[int]
    """Machines whose GPUs another fleet of the run has reserved already."""


def start_launcher(calls: Calls, config: Config, node: int, identity: str, servers: Supervised) -> Any:
    """The actor of machine `node`, which Ray knows as `identity`."""
    log = servers.logs / launcher_log(node)
    gpus = reserved_gpus(config.cluster, node, servers.reserved)
    place = Place(identity, {"env_vars": dict(OWN_GPUS)}, concurrency=AT_ONCE + _ANSWERS_BESIDE, gpus=gpus)
    folders = log.name, str(servers.logs), str(servers.scratch)
    stopped_s = config.cluster.answer_timeout_s
    told = servers.api_key, LOOPBACK, servers.fork_server, config.rollout.engine, stopped_s
    launcher = calls.host.start(LauncherActor, place, *folders, *told)
    calls.processes.add(f"the launcher of machine {node}", log, launcher, servers=True)
    return launcher


def end_launchers(calls: Calls, launchers: Collection[Any]) -> None:
    """End them and every server that they have started."""
    calls.processes.end_frozen(list(launchers))
    calls.host.wait([launcher.call.remote("stop") for launcher in launchers], _STOPPED_S)
    for launcher in launchers:
        calls.host.end(launcher)  # whatever did not stop ends with its supervisor
    calls.processes.forget(launchers)  # of one whose machine is gone nobody would answer

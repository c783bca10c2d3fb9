"""Importing the components of a configuration before anything starts, and asking whether a run can use them."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from rlscale.config.errors import UserError
from rlscale.config.schema import Config
from rlscale.config.schema.cluster_config import Device
from rlscale.config.schema.component import TARGET, component_nodes
from rlscale.data.protocol_methods import check_built
from rlscale.data.target import build_target, resolve_target
from rlscale.envs.configured_environment import configured_environment
from rlscale.envs.workers.calling import is_async


@dataclass(frozen=True)
class Use:
    """What a run does with a component that it builds."""

    protocol: str
    """The dotted path of the protocol, imported only when somebody's own component is looked at."""
    given: tuple[str, ...] = ()
    """What its class is given besides the arguments of its node."""


_USES: dict[str, Use] = {
    "trainer": Use("rlscale.trainer.trainer_protocol.Trainer", ("spec", "rank", "world_size", "local_rank")),
    "rollout": Use("rlscale.rollout.service_protocol.Service", ("spec",)),
    "rollout.engine": Use("rlscale.serve.engine_launcher.EngineLauncher", ("spec", "site")),
    "buffer": Use("rlscale.data.buffer.GroupBuffer"),
    "weights.transport": Use("rlscale.weights.transports.transport.Transport", ("route",)),
}
_TRACKER = Use("rlscale.observe.trackers.Tracker", ("run",))
_DRAINS = "rlscale.rollout.service_protocol.DrainsEngines"
"""The protocol of a service whose engines take weights in turns."""
_COPIES = "rlscale.trainer.trainer_protocol.CopiesState"
"""The protocol of a trainer whose state is copied."""
_CALLED = ("rollout.filter", "loop")
"""The components that are called instead, with one argument."""


def check_components(config: Config) -> list[str]:
    """Import every component that is not the shipped one. Returns what was looked at, a line each.

    Raises UserError with a line for each that cannot be imported, does not take what it is given, or lacks what a run
    calls.
    """
    own = [
        (key, node)
        for key, node, shipped in component_nodes(config)
        if key != "critic.trainer" and node != {TARGET: shipped}
    ]
    if own:
        prepare_imports(config.cluster.device)
    looked, problems = [], []
    for key, node in own:
        try:
            look_at(key, node)
            if key == "rollout" and config.syncs_in_waves:
                check_built(node, key, _protocol(_DRAINS), _USES[key].given)
            if key == "trainer" and config.checkpoint.in_memory:
                check_built(node, key, _protocol(_COPIES), _USES[key].given)
            looked.append(f"{key}: {node[TARGET]}")
        except UserError as error:
            problems += str(error).splitlines()
    if problems:
        raise UserError("\n".join(problems))
    return looked


def prepare_imports(device: Device) -> None:
    """Adapt Megatron to the device before a module of somebody's own imports it, as that of a trainer does.

    To the CPU where this machine has no such device: a laptop, or the head of a cluster, that only looks at it.
    """
    from rlscale.platform.device import Platform

    Platform.to_look(device).install_megatron()
    warnings.filterwarnings("ignore", module="megatron")  # what is not installed that would be faster on a GPU


def look_at(key: str, node: Mapping[str, Any]) -> None:
    """Import the component of one key and ask whether a run can use it. UserError if not."""
    if key == "env":
        configured_environment(node, None)
    elif key in _CALLED:
        _is_called(key, node)
    else:
        use = _USES.get(key, _TRACKER)
        check_built(node, key, _protocol(use.protocol), use.given)


def _protocol(path: str) -> type[Any]:
    module, _, name = path.rpartition(".")
    protocol: type[Any] = getattr(import_module(module), name)
    return protocol


def _is_called(key: str, node: Mapping[str, Any]) -> None:
    """A function, or a class whose instances are called: built here, as hooks are."""
    build_target(node, key, 1)
    target: Any = resolve_target(node, key)
    called = target.__call__ if inspect.isclass(target) else target
    if is_async(called):
        raise UserError(f"{key}: {node[TARGET]} is `async def`, and is called without await; write it as `def`")

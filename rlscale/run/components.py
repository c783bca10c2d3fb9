"""Importing the components of a configuration before anything starts, and asking whether they can be called."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

from rlscale.config.errors import UserError
from rlscale.config.schema import Config
from rlscale.config.schema.cluster_config import Device
from rlscale.config.schema.component import TARGET, component_nodes
from rlscale.data.target import build_target, check_node
from rlscale.envs.configured_environment import configured_environment

_GIVEN = {"trainer": 4, "rollout.engine": 2, "buffer": 0}
"""How many arguments a class is given besides those of its node, if not one."""
_CALLED = {"rollout.filter": 1, "loop": 1}
"""How many arguments a function, or an instance, is called with."""


def check_components(config: Config) -> list[str]:
    """Import every component that is not the shipped one. Returns what was looked at, a line each.

    Raises UserError with a line for each that cannot be imported, or does not take what it is given.
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
            looked.append(f"{key}: {node[TARGET]}")
        except UserError as error:
            problems += str(error).splitlines()
    if problems:
        raise UserError("\n".join(problems))
    return looked


def prepare_imports(device: Device) -> None:
    """Adapt Megatron to the device before a module of somebody's own imports it, as that of a trainer does."""
    from rlscale.platform.device import Platform

    Platform.of(device, 0).install_megatron()
    warnings.filterwarnings("ignore", module="megatron")  # what is not installed that would be faster on a GPU


def look_at(key: str, node: Mapping[str, Any]) -> None:
    """Import the component of one key and ask whether it can be called as a run does. UserError if not."""
    if key == "env":
        configured_environment(node, None)
    elif key in _CALLED:
        build_target(node, key, _CALLED[key])
    else:
        check_node(node, key, _GIVEN.get(key, 1))

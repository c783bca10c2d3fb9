"""Importing the components of a configuration before anything starts, and asking whether they can be called."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rlscale.config.errors import UserError
from rlscale.config.schema import Config
from rlscale.config.schema.component import TARGET, component_nodes
from rlscale.data.target import build_target, check_node
from rlscale.envs.configured_environment import configured_environment

_GIVEN = {"trainer": 4, "rollout": 1, "buffer": 0, "weights.transport": 1}
"""How many arguments a class is given besides those of its node."""
_CALLED = {"rollout.filter": 1, "loop": 1}
"""How many arguments a function, or an instance, is called with."""


def check_components(config: Config) -> list[str]:
    """Import every component that is not the shipped one. Returns what was looked at, a line each.

    Raises UserError with a line for each that cannot be imported, or does not take what it is given.
    """
    looked, problems = [], []
    for key, node, shipped in component_nodes(config):
        if key == "critic.trainer" or node == {TARGET: shipped}:
            continue
        try:
            _look_at(key, node, config)
            looked.append(f"{key}: {node[TARGET]}")
        except UserError as error:
            problems += str(error).splitlines()
    if problems:
        raise UserError("\n".join(problems))
    return looked


def _look_at(key: str, node: Mapping[str, Any], config: Config) -> None:
    if key == "trainer":  # what a trainer imports may need to be adapted to this device first
        from rlscale.platform.device import Platform

        Platform.of(config.cluster.device, 0).install_megatron()
    if key == "env":
        configured_environment(node, None)
    elif key in _CALLED:
        build_target(node, key, _CALLED[key])
    else:
        check_node(node, key, _GIVEN[key])

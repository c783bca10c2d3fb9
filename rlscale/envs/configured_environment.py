"""The environment that a configuration names, made anew for every sample."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from rlscale.config.errors import UserError
from rlscale.config.schema.reward_config import RewardConfig
from rlscale.data.target import build_target, resolve_target
from rlscale.envs.environment import Environment, Scorer, SingleTurn
from rlscale.envs.rewards_by_source import RewardsBySource

_METHODS = ("reset", "step", "close")


class Environments:
    """Makes an environment for every sample; holds the configured rewards where the environment takes one.

    `check_label` is what those rewards say of labels before they judge by them. `limit_s`: seconds of each call.
    """

    def __init__(
        self,
        node: Mapping[str, Any],
        reward: RewardConfig | None,
        limit_s: float,
        by_source: Mapping[str, RewardConfig] | None = None,
    ) -> None:
        """`by_source`: rewards of the sources that have one of their own; `reward` is None where all have.

        UserError if environment or reward cannot be built.
        """
        self._reward = RewardsBySource(reward, by_source or {}) if takes_reward(node) else None
        self.make = configured_environment(node, self._reward)
        self.check_label = None if self._reward is None else self._reward.check_label
        # One that only waits for its reward takes as long as that, which has a limit of its own.
        self.limit_s = None if resolve_target(node, "env") is SingleTurn else limit_s

    def close(self) -> None:
        """End the reward's workers."""
        if self._reward is not None:
            self._reward.close()


def takes_reward(node: Mapping[str, Any]) -> bool:
    """Whether the environment of `env` is given the configured reward. UserError if it cannot be imported."""
    target = resolve_target(node, "env")
    try:
        return "reward" not in node and "reward" in inspect.signature(target).parameters
    except (TypeError, ValueError):  # a compiled class that does not tell
        return False


def configured_environment(node: Mapping[str, Any], reward: Scorer | None) -> Callable[[], Environment]:
    """What makes an environment for a sample. `reward`: the configured one, for environments that take it.

    One is made here and discarded, to know that it can be. UserError naming env.<argument> for one that the class does
    not take or that is missing, and `env` for a class that is not an environment.
    """
    target = resolve_target(node, "env")
    name = node["_target_"]
    if not inspect.isclass(target):
        raise UserError(f"env._target_={name}: must be a class; every sample gets an instance of its own")
    for method in _METHODS:
        found = getattr(target, method, None)
        if found is None:
            raise UserError(
                f"env._target_={name}: has no method {method}; an environment has reset, step and close "
                "(rlscale.envs.environment.Environment, from which you may inherit)"
            )
        if not inspect.iscoroutinefunction(found):
            raise UserError(f"env._target_={name}: {method} cannot be awaited; write it as `async def {method}`")
    arguments = {key: value for key, value in node.items() if key != "_target_"}
    if takes_reward(node):
        arguments["reward"] = reward
    build_target({"_target_": name, **arguments}, "env")
    made: Callable[..., Any] = target
    return partial(made, **arguments)

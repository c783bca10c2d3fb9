"""The agent that a configuration names. Light to import: it is looked at before every run."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, cast

from rlscale.config.errors import UserError
from rlscale.config.schema.agent_config import AgentConfig
from rlscale.data.target import build_target, resolve_target
from rlscale.rollout.endpoint.agent import Agent
from rlscale.rollout.endpoint.command_agent import CommandAgent


def configured_agent(config: AgentConfig) -> Callable[[], Agent] | None:
    """What makes an agent for a sample; None where the configuration names none.

    One is made here and discarded, to know that it can be. UserError naming the key if it cannot.
    """
    if config.command is not None:
        if config._target_:
            raise UserError("agent.command and agent._target_ are both set; leave one of them out")
        return partial(CommandAgent, config.command)
    return agent_of({"_target_": config._target_, **config.arguments}) if config._target_ else None


def agent_of(node: Mapping[str, Any]) -> Callable[[], Agent]:
    """What makes an agent by `_target_` and its arguments. UserError if it is not an agent, or cannot be made."""
    name = node["_target_"]
    target: Any = resolve_target(node, "agent")
    if not inspect.isclass(target):
        raise UserError(f"agent._target_={name}: must be a class; every sample gets an instance of its own")
    if not inspect.iscoroutinefunction(getattr(target, "run", None)):
        raise UserError(
            f"agent._target_={name}: has no `async def run(self, prompt, base_url, key, seed)` "
            "(see rlscale.rollout.endpoint.agent.Agent)"
        )
    build_target(dict(node), "agent.arguments")
    return partial(
        cast("Callable[..., Agent]", target), **{key: value for key, value in node.items() if key != "_target_"}
    )

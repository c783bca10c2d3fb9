"""Whether all turns of a trajectory go to one engine, which has their beginning in its cache."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rlscale.config.schema import SINGLE_TURN
from rlscale.config.schema.agent_config import AgentConfig
from rlscale.config.schema.component import TARGET
from rlscale.config.schema.rollout_config import RolloutConfig

STICKY = "manual"
"""The router's policy that sends requests with the same key to the same engine."""


def is_sticky(rollout: RolloutConfig, env: Mapping[str, Any], agent: AgentConfig) -> bool:
    """Whether requests name their trajectory to the router.

    So it is where episodes may have several turns and there are several engines, unless `rollout.router.policy` says
    otherwise; that policy may also be asked for by name. Engines that generate from what others read cache no prompt.
    """
    if rollout.engine_count == 1 or (rollout.disaggregated and "policy" not in rollout.router):
        return False
    has_turns = env.get(TARGET) != SINGLE_TURN or agent._target_ is not None or agent.command is not None
    given = rollout.router.get("policy")
    return has_turns if given is None else given == STICKY

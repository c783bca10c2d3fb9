"""What a response is worth."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from rlscale.config.schema.about import Limit, Scope, bounded
from rlscale.config.schema.limits import YEAR
from rlscale.config.schema.section import Section


@dataclass
class RewardConfig(Section):
    """The reward function and what happens when it fails."""

    function: dict[str, Any] = field(default_factory=dict)
    """`_target_` of a rlscale.envs.Reward and its arguments."""
    timeout_s: float = bounded(10.0, above=0, limit=YEAR, scope=Scope.execution)
    """Seconds that one call may take; past them it is ended, and tried once more in a process of its own."""
    crash_score: float = bounded(0.0, at_least=-1e6, at_most=1e6)
    """Reward of a response that makes the reward raise, hang or die twice over: it should be that of a wrong one."""
    workers: int | None = bounded(
        None, at_least=0, limit=Limit(1024, "each is a process of its own"), scope=Scope.execution
    )
    """Processes that compute rewards; 0: threads of the rollout service; null: what suits reward and machine."""
    max_failure_rate: float = bounded(0.1, at_least=0, at_most=1, scope=Scope.execution)
    """Share of failed rewards in the last iteration's worth of samples past which the run stops."""
    group_function: dict[str, Any] = field(default_factory=dict)
    """`_target_` of a rlscale.envs.group_reward.GroupReward and its arguments; its scores are added to the others."""

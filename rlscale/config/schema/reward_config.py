"""What a response is worth."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from rlscale.config.schema.section import Section


@dataclass
class RewardConfig(Section):
    """The reward function and what happens when it fails."""

    function: dict[str, Any] = field(default_factory=dict)
    """`_target_` of a rlscale.envs.Reward and its arguments."""
    timeout_s: float = 10.0
    """Seconds that one call may take; past them the sample has failed."""
    workers: int | None = None
    """Processes that compute rewards; 0: threads of the rollout service; null: what suits reward and machine."""
    max_failure_rate: float = 0.1
    """Share of failed rewards in the last iteration's worth of samples past which the run stops."""

"""Agents, which bring their own loop."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from rlscale.config.schema.about import Scope, bounded
from rlscale.config.schema.limits import YEAR
from rlscale.config.schema.section import Section


@dataclass
class AgentConfig(Section):
    """Who works on a prompt in place of an environment, talking to the policy over HTTP."""

    _target_: str | None = None
    """Class of the agent: a rlscale.rollout.endpoint.agent.Agent; null, and no command: `env` makes the samples."""
    arguments: dict[str, Any] = field(default_factory=dict)
    """Arguments of the agent, by name."""
    command: str | None = None
    """Program that is the agent, such as "python my_agent.py"; it finds URL and key in OPENAI_BASE_URL and
    OPENAI_API_KEY (or ANTHROPIC_BASE_URL and ANTHROPIC_API_KEY), and its task on standard input."""
    timeout_s: float = bounded(600.0, above=0, limit=YEAR, scope=Scope.execution)
    """Seconds that an agent has for its prompt; past them the sample has failed."""

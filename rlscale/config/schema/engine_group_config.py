"""A group of the policy's engines that are alike, beside others that are not."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from rlscale.config.schema.about import Unread, Where, bounded
from rlscale.config.schema.limits import DEVICES
from rlscale.config.schema.section import Section


class Role(Enum):
    """What an engine does with a request."""

    regular = "regular"
    """All of it."""
    prefill = "prefill"
    """It reads the prompt, samples the first token, and hands the keys and values over."""
    decode = "decode"
    """It takes them, and samples the rest."""


@dataclass
class EngineGroupConfig(Section):
    """Engines of one kind among those that serve the policy."""

    role: Role = Role.regular
    """What its engines do: `regular`, everything; `prefill` reads prompts, `decode` generates from what it read."""
    engines: int = bounded(1, at_least=1, limit=DEVICES)
    """Engines of the group."""
    gpus_per_engine: int | None = bounded(
        None, at_least=1, limit=DEVICES, unread=[Unread(Where.cpu, " has no meaning on the CPU; leave it out")]
    )
    """GPUs of one of its engines; null: `rollout.gpus_per_engine`."""
    sglang: dict[str, Any] = field(default_factory=dict)
    """Any option of SGLang's ServerArgs for its engines, over `rollout.sglang`."""

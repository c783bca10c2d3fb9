"""Where metrics go besides the run's own files."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from rlscale.config.schema.section import Section


class TrackerKind(Enum):
    """Known trackers. `metrics.jsonl` is always written."""

    tensorboard = "tensorboard"
    wandb = "wandb"


@dataclass
class TrackerConfig(Section):
    """The trackers and their options."""

    kinds: list[TrackerKind] = field(default_factory=list)
    """Which trackers, one or several: tensorboard, wandb."""
    project: str = "rlscale"
    """Project of Weights & Biases."""
    name: str | None = None
    """Name of the run in Weights & Biases; null means recipe and date-time."""
    offline: bool = True
    """Weights & Biases writes to the run's folder only; `wandb sync` uploads it later."""

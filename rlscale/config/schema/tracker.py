"""Where metrics go besides the run's own files."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from rlscale.config.schema.section import Section


class TrackerKind(Enum):
    """Known trackers. `metrics.jsonl` is always written."""

    none = "none"
    tensorboard = "tensorboard"
    wandb = "wandb"


@dataclass
class TrackerConfig(Section):
    """The tracker and its options."""

    kind: TrackerKind = TrackerKind.none
    """Which tracker."""
    project: str = "rlscale"
    """Project of Weights & Biases."""
    name: str | None = None
    """Name of the run in the tracker; null means recipe and date-time."""
    offline: bool = True
    """Weights & Biases writes to the run's folder only; `wandb sync` uploads it later."""

"""Where metrics go besides the run's own files."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from rlscale.config.schema.about import Unread, key
from rlscale.config.schema.component import TARGET
from rlscale.config.schema.section import Section

SHIPPED = {
    "tensorboard": {TARGET: "rlscale.observe.trackers.TensorBoardTracker"},
    "wandb": {TARGET: "rlscale.observe.trackers.WandbTracker"},
    "prometheus": {TARGET: "rlscale.observe.prometheus_tracker.PrometheusTracker"},
}
"""The trackers that rlscale has."""


_WANDB_ONLY = Unread(
    lambda tracker: "wandb" not in tracker.kinds,
    " is read by Weights & Biases only; choose tracker=wandb, or leave it out",
)


@dataclass
class TrackerConfig(Section):
    """The trackers and their options."""

    kinds: list[str] = field(default_factory=list)
    """Which of `tracker.known`, one or several: tensorboard, wandb, prometheus. `metrics.jsonl` is always written."""
    known: dict[str, Any] = field(default_factory=lambda: {name: dict(node) for name, node in SHIPPED.items()})
    """Trackers by name: `_target_` of a rlscale.observe.trackers.Tracker and its arguments. Add your own here."""
    project: str = key("rlscale", unread=[_WANDB_ONLY])
    """Project of Weights & Biases."""
    name: str | None = key(None, unread=[_WANDB_ONLY])
    """Name of the run in Weights & Biases; null means recipe and date-time."""
    offline: bool = key(True, unread=[_WANDB_ONLY])
    """Weights & Biases writes to the run's folder only; `wandb sync` uploads it later."""

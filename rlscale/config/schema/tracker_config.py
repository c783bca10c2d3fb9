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
    "mlflow": {TARGET: "rlscale.observe.mlflow_tracker.MlflowTracker"},
    "prometheus": {TARGET: "rlscale.observe.prometheus_tracker.PrometheusTracker"},
}
"""The trackers that rlscale has."""


_WANDB_ONLY = Unread(
    lambda tracker: "wandb" not in tracker.kinds,
    " is read by Weights & Biases only; choose tracker=wandb, or leave it out",
)
_NAMED_ONLY = Unread(
    lambda tracker: not {"wandb", "mlflow"}.intersection(tracker.kinds),
    " is read by Weights & Biases and MLflow only; choose tracker=wandb or tracker=mlflow, or leave it out",
)


@dataclass
class TrackerConfig(Section):
    """The trackers and their options."""

    kinds: list[str] = field(default_factory=list)
    """Which of `tracker.known`, one or several: tensorboard, wandb, mlflow, prometheus. `metrics.jsonl` is written
    always."""
    known: dict[str, Any] = field(default_factory=lambda: {name: dict(node) for name, node in SHIPPED.items()})
    """Trackers by name: `_target_` of a rlscale.observe.trackers.Tracker and its arguments. Add your own here."""
    project: str = key("rlscale", unread=[_NAMED_ONLY])
    """Project of Weights & Biases, experiment of MLflow."""
    name: str | None = key(None, unread=[_NAMED_ONLY])
    """Name of the run there; null means recipe and date-time."""
    offline: bool = key(True, unread=[_WANDB_ONLY])
    """Weights & Biases writes to the run's folder only; `wandb sync` uploads it later."""

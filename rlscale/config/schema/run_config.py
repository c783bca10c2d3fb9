"""The run itself: how long, where to, from which seed."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from omegaconf import MISSING

from rlscale.config.schema.section import PathKind, Section, path_field


class Progress(Enum):
    """How progress is shown."""

    auto = "auto"
    live = "live"
    plain = "plain"


@dataclass
class RunSection(Section):
    """The run itself."""

    recipe: str = MISSING
    """Name of the recipe; set from the recipe's file name."""
    iterations: int = 100
    """Iterations (collect, train, sync) of the run."""
    stop_loss: float | None = None
    """End training early, once the mean loss of the last 10 iterations is below this; null never does."""
    seed: int = 0
    """Seed of everything that is drawn at random: data order, sampling, initial weights."""
    output: str | None = path_field(None)
    """Folder of this run; null means `<run.root>/<recipe>/<date-time>`."""
    root: str = path_field("outputs")
    """Folder of all runs."""
    scratch: str = path_field(".rlscale")
    """Folder for what can be made again: models made by the project, caches, Ray's files."""
    progress: Progress = Progress.auto
    """`live` redraws the terminal, `plain` prints lines; `auto` asks whether it is a terminal."""
    report_samples: int = 8
    """Samples shown in the report, of each evaluation and of each iteration that `run.report_samples_every` picks."""
    report_samples_every: int = 10
    """Iterations between those whose samples are shown, besides the first; 0 shows those of evaluations only."""
    groups: dict[str, str] = field(default_factory=dict)
    """The group options that this configuration was composed from; set by composing, never by hand."""


@dataclass
class WarmStartConfig(Section):
    """A supervised stage before reinforcement learning, run on its own when its result is missing."""

    recipe: str = path_field(MISSING, PathKind.recipe)
    """Recipe of the stage. It takes this run's model, cluster, parallel, seed and folders."""

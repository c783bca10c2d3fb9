"""The critic: a second model with a scalar head, for algorithms that estimate advantages from values."""

from __future__ import annotations

from dataclasses import dataclass, field

from rlscale.config.schema.about import bounded
from rlscale.config.schema.limits import COUNT, RATIO
from rlscale.config.schema.model_config import ModelConfig
from rlscale.config.schema.optim_config import OptimConfig
from rlscale.config.schema.section import Section, following
from rlscale.config.schema.trainer_config import TrainerConfig


@dataclass
class CriticConfig(Section):
    """The critic of `algo/advantage=gae`. Its model, optimizer and trainer are the policy's unless they are set."""

    model: ModelConfig = field(default_factory=lambda: following(ModelConfig, "model"))
    """Which model; the scalar head on it starts at zero."""
    optim: OptimConfig = field(default_factory=lambda: following(OptimConfig, "optim"))
    """Its optimizer and learning-rate schedule."""
    trainer: TrainerConfig = field(default_factory=lambda: following(TrainerConfig, "trainer"))
    """How its steps are computed."""
    warmup_iterations: int = bounded(0, at_least=0, limit=COUNT)
    """Iterations at the start that train the critic alone."""
    clip: float | None = bounded(0.2, above=0, limit=RATIO)
    """Bound on how far a value may move from its old one within the loss; null for none."""

"""The optimizer and its learning-rate schedule."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from rlscale.config.schema.about import Limit, bounded, passed_on
from rlscale.config.schema.limits import COUNT, LEARNING_RATE
from rlscale.config.schema.section import Section


class Schedule(Enum):
    """Shape of the learning rate after warm-up."""

    constant = "constant"
    """Stays at `lr`."""
    linear = "linear"
    """Falls to `min_lr` in equal steps."""
    cosine = "cosine"
    """Falls to `min_lr` along half a cosine: slowly at first and at the end."""


@dataclass
class OptimConfig(Section):
    """Megatron's Adam with decoupled weight decay."""

    lr: float = bounded(1e-6, above=0, limit=LEARNING_RATE)
    """Peak learning rate."""
    min_lr: float = bounded(0.0, at_least=0, limit=LEARNING_RATE)
    """Learning rate that the schedule falls to; reached after the last step."""
    schedule: Schedule = Schedule.constant
    """Shape of the learning rate after warm-up."""
    warmup_steps: int = bounded(0, at_least=0, limit=COUNT)
    """Optimizer steps of linear warm-up from 0; the last of them has `lr`, the first the first part of it."""
    decay_steps: int | None = bounded(None, at_least=1, limit=COUNT)
    """Optimizer steps with a rate above `min_lr`, warm-up included; those after them have it. Null: the whole run."""
    weight_decay: float = bounded(
        0.01, at_least=0, limit=Limit(100, "a step takes the learning rate times this off every weight")
    )
    """Decoupled weight decay."""
    beta1: float = bounded(0.9, at_least=0, below=1)
    """Adam's decay of the first moment."""
    beta2: float = bounded(0.98, at_least=0, below=1)
    """Adam's decay of the second moment."""
    eps: float = bounded(
        1e-8, above=0, limit=Limit(1, "it is added to the root of Adam's second moment, in float32", least=1e-30)
    )
    """Added to the root of Adam's second moment."""
    clip_grad: float = bounded(
        1.0, at_least=0, limit=Limit(1e9, "no gradient is that large; 0 switches clipping off", least=1e-9)
    )
    """Bound on the global gradient norm; 0 switches clipping off."""
    groups: dict[str, Any] = field(default_factory=dict)
    """Parameters trained with other values, by any name: `{router: {pattern: '*.mlp.gate.weight', lr_mult: 0.1}}`;
    `pattern` as in `trainer.frozen`, `lr_mult` times the learning rate, `weight_decay` instead of the others'."""
    reset_every: int = bounded(0, at_least=0, limit=COUNT)
    """Iterations after which Adam's moments begin again at zero (1: in each iteration); 0 for never."""
    reset_on_resume: bool = False
    """Whether Adam's moments begin again at zero when a run continues from a checkpoint."""
    on_host: bool = False
    """Keep the optimizer's state in host memory and step on the CPU; on GPUs with `trainer.distributed_optimizer`."""
    megatron: dict[str, Any] = passed_on("optimizer")
    """Any further option of Megatron's OptimizerConfig, by its own name."""

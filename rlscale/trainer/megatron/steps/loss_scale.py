"""The factor of the loss in float16, whose gradients would otherwise be too small for it.

It is found by doubling and halving. Megatron skips a step whose gradients overflowed; here its passes are made again
with half the factor, so that no batch is lost and a skipped step keeps its meaning: something is wrong.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from megatron.core.optimizer import OptimizerConfig
from megatron.core.optimizer.grad_scaler import DynamicGradScaler

OPTIONS = {"initial_loss_scale": 2.0**16, "hysteresis": 1}
"""Options of Megatron's that are another default here; it begins at 2^32, and halves at every second overflow."""


class LossScale(DynamicGradScaler):
    """One factor for all optimizers of a model.

    Megatron gives each of them one of its own (experts, all other parameters) but multiplies the loss by the first's,
    and changes it before the next optimizer has divided by it.
    """

    def __init__(self, config: OptimizerConfig) -> None:
        super().__init__(
            initial_scale=config.initial_loss_scale,
            min_scale=config.min_loss_scale,
            growth_factor=2.0,
            backoff_factor=0.5,
            growth_interval=config.loss_scale_window,
            hysteresis=config.hysteresis,
        )
        self._before: dict[str, Any] | None = None

    @staticmethod
    def of(megatron: Any, config: OptimizerConfig) -> LossScale | None:
        """The factor of a model's (chained) optimizer, which uses it from now on; None where none is looked for."""
        if not config.fp16 or config.loss_scale:
            return None
        scale = LossScale(config)
        for chained in megatron.chained_optimizers:
            chained.grad_scaler = scale
        return scale

    def update(self, found_inf: bool) -> None:
        """Called by each of Megatron's optimizers, which may not have seen all gradients: `settle` counts."""

    def settle(self, overflow: bool) -> bool:
        """Halve the factor if gradients overflowed; whether the step's passes are to be made again. Collective.

        With the least factor the fault is not the factor's: it is again what it was, and the step is to be skipped.
        """
        found = torch.tensor([float(overflow)], device=self.scale.device)
        dist.all_reduce(found, op=dist.ReduceOp.MAX)
        overflow = bool(found.item())
        if not overflow:
            super().update(False)
            self._before = None
            return False
        self._before = self._before or self.state_dict()
        if self.value > float(self.min_scale):
            super().update(True)
            return True
        self.load_state_dict(self._before)
        self._before = None
        return False

    @property
    def value(self) -> float:
        """The factor."""
        return float(self.scale)

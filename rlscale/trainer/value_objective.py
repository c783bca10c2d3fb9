"""The critic's objective: the squared error of its values, clipped, as sums that add over micro-batches and ranks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from rlscale.algo.critic import value_loss
from rlscale.config.schema.critic_config import CriticConfig
from rlscale.trainer.finite_loss import with_gradient_of_its_kind
from rlscale.trainer.objective_metrics import Metrics, masked_sum


@dataclass(frozen=True)
class ValueObjective:
    """The loss of a critic."""

    config: CriticConfig

    def __call__(self, values: Tensor, fields: Mapping[str, Tensor]) -> tuple[Tensor, Metrics]:
        """This micro-batch's share of the step's loss, and its metrics (`objective_metrics.finish` ends both).

        loss = sum_t value_weight_t value_loss_t

        Shapes: values [T] with gradient, aligned to the token whose prediction they were read at; fields: loss_mask [T]
        bool, values (the old ones), returns, value_weight [T]. Returns ([] with gradient, Metrics without). T may be 0.
        Values where loss_mask is False are never read. A loss that is not finite has a NaN gradient.
        """
        mask = fields["loss_mask"].bool()
        dtype = torch.promote_types(values.dtype, torch.float32)

        def clean(column: Tensor) -> Tensor:
            return torch.where(mask, column.to(dtype), 0.0)

        current, old, returns = clean(values), clean(fields["values"]), clean(fields["returns"])
        result = value_loss(current, old, returns, clip=self.config.clip)
        sums = {
            "tokens": mask,
            "value_loss": result.loss,
            "value_clip_fraction": result.clipped,
            "value_error": (current - returns).abs(),
        }
        metrics = Metrics({name: masked_sum(value, mask) for name, value in sums.items()}, {})
        return with_gradient_of_its_kind((clean(fields["value_weight"]) * result.loss).sum(), current), metrics

"""Megatron's linears with an adapter. A linear of a built model becomes one, with its parameters and their names.

The classes stand between a linear's own class and the one that makes the product, so that a norm in front of it or
behind it is computed once, and where it was.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from megatron.core.tensor_parallel.layers import ColumnParallelLinear, RowParallelLinear
from torch import Tensor

from rlscale.trainer.megatron.model.grouped_low_rank import GroupedLowRank
from rlscale.trainer.megatron.model.layers import WholeLinear
from rlscale.trainer.megatron.model.low_rank import LowRank


class _AdaptedColumn(ColumnParallelLinear):
    adapter: LowRank

    def forward(self, x: Tensor, *args: Any, **options: Any) -> Any:
        output, bias = super().forward(x, *args, **options)
        return _added(self.adapter, x, output), bias


class _AdaptedRow(RowParallelLinear):
    adapter: LowRank

    def forward(self, x: Tensor) -> Any:
        output, bias = super().forward(x)
        return _added(self.adapter, x, output), bias


class _AdaptedWhole(WholeLinear):
    adapter: LowRank

    def forward(self, x: Tensor) -> Tensor:
        return _added(self.adapter, x, super().forward(x))


class _AdaptedGrouped:
    """In front of a linear of many experts, ours or Transformer Engine's."""

    adapter: GroupedLowRank

    def forward(self, x: Tensor, m_splits: Any) -> Any:
        output, bias = super().forward(x, m_splits)  # type: ignore[misc]  # that of the class behind this one
        return output + self.adapter.added(x, m_splits) if self.adapter.enabled else output, bias


class _AdaptedOther:
    """In front of Transformer Engine's, which make norm and product in one."""

    adapter: LowRank

    def forward(self, x: Tensor, *args: Any, **options: Any) -> Any:
        output, bias = super().forward(x, *args, **options)  # type: ignore[misc]  # that of the class behind this one
        weight = getattr(self, "layer_norm_weight", None)
        if weight is not None:
            one = 1.0 if getattr(self, "zero_centered_gamma", False) else 0.0
            eps: float = self.eps  # type: ignore[attr-defined]  # Transformer Engine's
            x = torch.nn.functional.rms_norm(x, weight.shape, weight + one, eps)
        return _added(self.adapter, x, output), bias


def _added(adapter: LowRank, x: Tensor, output: Tensor) -> Tensor:
    return output + adapter.added(x) if adapter.enabled else output


def adapt(linear: torch.nn.Module, adapter: LowRank | GroupedLowRank) -> None:
    """Give a linear an adapter, and one of many experts an adapter for each."""
    linear.adapter = adapter
    kind: Any = type(linear)
    linear.__class__ = _adapted(kind) if isinstance(adapter, LowRank) else _adapted_grouped(kind)


@cache
def _adapted_grouped(kind: type[Any]) -> type[Any]:
    return type(f"Adapted{kind.__name__}", (_AdaptedGrouped, kind), {})


@cache
def _adapted(kind: type[Any]) -> type[Any]:
    """The class of a linear of that kind with an adapter."""
    for base, adapted in (
        (ColumnParallelLinear, _AdaptedColumn),
        (RowParallelLinear, _AdaptedRow),
        (WholeLinear, _AdaptedWhole),
    ):
        if kind is base:
            return adapted
        if issubclass(kind, base):
            return type(f"Adapted{kind.__name__}", (kind, adapted), {})
    return type(f"Adapted{kind.__name__}", (_AdaptedOther, kind), {})

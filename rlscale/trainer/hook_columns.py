"""The columns of a batch as a hook reads them: made ready when they are read, and refused by name where they are not.

A column that a model computes is given only where the configuration asks for it. Another part of the algorithm may
have it computed too, but a hook must not come to depend on that.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rlscale.config.errors import UserError
from rlscale.data.batches.batch import Batch
from rlscale.data.batches.fields import FIELDS, Scope
from rlscale.trainer.hooks import HookKind, hook_key

Column = TypeVar("Column")

_ASKED = ("advantage", "loss")
"""Hooks whose section has `reads`."""


class HookColumns(Mapping[str, Column], Generic[Column]):
    """Columns by name. UserError for one that is not there, which `in` and `get` can ask about."""

    def __init__(
        self,
        kind: HookKind,
        columns: Mapping[str, Column],
        ready: Callable[[str, Column], Column],
        reads: Collection[str] = (),
    ) -> None:
        """`ready` makes of a name and a column what the hook sees; `reads`: the columns by models that it is given."""
        self._kind, self._ready = kind, ready
        self._columns = {name: column for name, column in columns.items() if is_given(name, reads)}

    def __getitem__(self, name: str) -> Column:
        if name not in self._columns:
            raise UserError(f"{hook_key(self._kind)} reads the column {name!r}, {self._why(name)}")
        return self._ready(name, self._columns[name])

    def get(self, name: str, default: Any = None) -> Any:
        """The column, or the default where the hook is not given it."""
        return self[name] if name in self._columns else default

    def __contains__(self, name: object) -> bool:
        return name in self._columns

    def __iter__(self) -> Iterator[str]:
        return iter(self._columns)

    def __len__(self) -> int:
        return len(self._columns)

    def _why(self, name: str) -> str:
        if name in FIELDS and FIELDS[name].made_by.is_model:
            if self._kind in _ASKED:
                return f"which a model computes; ask for it with algo.{self._kind}.reads=[{name}]"
            return f"which a model computes; only {' and '.join(_ASKED)} can ask for one"
        return f"which this batch does not have; it has {', '.join(sorted(self._columns)) or 'none'}"


def is_given(name: str, reads: Collection[str]) -> bool:
    """Whether a hook is given a column of the batch: what a model computes must be asked for."""
    return name in reads or not FIELDS[name].made_by.is_model


def row_columns(kind: HookKind, batch: Batch, reads: Collection[str] = ()) -> HookColumns[NDArray]:
    """The columns of a whole batch: of tokens [T, ...], numbers 0 where the mask is False; of rows [R, ...]."""
    mask = batch.column("loss_mask")

    def ready(name: str, column: NDArray) -> NDArray:
        if FIELDS[name].scope is not Scope.token:
            return column.copy()
        column = column.astype(np.float64) if column.dtype.kind == "f" else column
        return np.where(mask.reshape(-1, *[1] * (column.ndim - 1)), column, np.zeros((), column.dtype))

    return HookColumns(kind, batch.columns, ready, reads)


def sample_columns(kind: HookKind, batch: Batch, of_samples: Callable[[str], NDArray]) -> HookColumns[NDArray]:
    """The columns [n, ...] that have one value per sample; `of_samples` gives one of them by its name."""
    own = {name: column for name, column in batch.columns.items() if FIELDS[name].scope is Scope.sample}
    return HookColumns(kind, own, lambda name, _: of_samples(name))


def token_columns(
    kind: HookKind, fields: Mapping[str, Tensor], mask: Tensor, dtype: torch.dtype, reads: Collection[str] = ()
) -> HookColumns[Tensor]:
    """The fields of a micro-batch of T tokens, 0 where the mask is False; floating-point numbers in `dtype`."""

    def ready(name: str, column: Tensor) -> Tensor:
        column = column.to(dtype) if column.is_floating_point() else column
        if not column.dim():
            return column
        return torch.where(mask.view(-1, *[1] * (column.dim() - 1)), column, torch.zeros_like(column))

    return HookColumns(kind, fields, ready, reads)

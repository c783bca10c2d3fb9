"""The inputs that a hook is called with in its contract test: as a run gives them, from the data of a case."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rlscale.algo.losses import SegmentSum
from rlscale.algo.protocols import AdvantageInputs, CorrectionInputs, LossInputs, ReductionInputs, ScoreInputs
from rlscale.config.derived.needs import COLUMNS
from rlscale.data.batches.fields import FIELDS, Maker, Scope
from rlscale.trainer.hook_columns import HookColumns
from rlscale.trainer.hook_contract.cases import MAX_RESPONSE_TOKENS, Case, sums_over_segments
from rlscale.trainer.hooks import HookKind


@dataclass
class Given:
    """Which columns of models hooks are given in a test, and which they read."""

    reads: Collection[str] = tuple(COLUMNS)
    """Those that they are given, as if the configuration named them."""
    touched: set[str] = field(default_factory=set)
    """Those that were read of any, given or not."""


@dataclass(frozen=True)
class Arguments:
    """The inputs for one call of a hook, made for that call alone."""

    inputs: Any
    columns: dict[str, Any]
    """What is in `inputs.columns`."""

    def arrays(self) -> list[tuple[str, Any]]:
        """Name and value of every array and tensor in it; the hook is not seen to read them."""
        parts = [(f"inputs.{part.name}", vars(self.inputs)[part.name]) for part in fields(self.inputs)]
        parts += [(f"inputs.columns[{name!r}]", column) for name, column in self.columns.items()]
        return [(name, value) for name, value in parts if isinstance(value, Tensor | np.ndarray)]


class _Recorded(HookColumns[Any]):
    """Columns that remember which were read of them."""

    def __init__(self, kind: HookKind, columns: dict[str, Any], given: Given) -> None:
        super().__init__(kind, columns, lambda _, column: column, given.reads)
        self._given = given

    def __getitem__(self, name: str) -> Any:
        self._given.touched.add(name)
        return super().__getitem__(name)


def score_arguments(case: Case, given: Given) -> Arguments:
    """Inputs of a score."""
    columns = {name: column.copy() for name, column in case.of_samples.items()}
    recorded = _Recorded("score", columns, given)
    return Arguments(ScoreInputs(case.rewards.copy(), case.groups.copy(), recorded), columns)


def advantage_arguments(case: Case, given: Given, noise: NDArray[np.float64] | float = 0.0) -> Arguments:
    """Inputs of an advantage; `noise` is added to each column of floating-point numbers of tokens."""
    columns = _of_rows(case, noise)
    rows = (case.rewards.copy(), case.sample.copy(), case.lengths.copy(), case.mask.copy())
    return Arguments(AdvantageInputs(*rows, _Recorded("advantage", columns, given)), columns)


def reduction_arguments(case: Case, given: Given) -> Arguments:
    """Inputs of a reduction."""
    columns = _of_rows(case, 0.0)
    rows = (case.mask.copy(), case.lengths.copy(), case.sample.copy(), case.step.copy())
    return Arguments(ReductionInputs(*rows, MAX_RESPONSE_TOKENS, _Recorded("reduction", columns, given)), columns)


def loss_arguments(case: Case, given: Given, dtype: torch.dtype, segment_sum: SegmentSum | None = None) -> Arguments:
    """Inputs of a loss: log-probs that are the result of something, and 0 where the mask is False."""
    columns = _of_tokens(case, dtype)
    # In arrays of their own: what a hook does to the one must not show in the other.
    logprobs, old, advantages = (columns[n].clone() for n in ("logprobs", "old_logprobs", "advantages"))
    del columns["logprobs"]
    mask, sums = torch.from_numpy(case.mask.copy()), segment_sum or sums_over_segments(case)
    recorded = _Recorded("loss", columns, given)
    return Arguments(LossInputs(logprobs.requires_grad_().clone(), old, advantages, mask, sums, recorded), columns)


def correction_arguments(
    case: Case, given: Given, dtype: torch.dtype, segment_sum: SegmentSum | None = None
) -> Arguments:
    """Inputs of a correction."""
    columns = _of_tokens(case, dtype)
    del columns["logprobs"]
    log_ratio = np.where(case.mask, case.columns["old_logprobs"] - case.columns["rollout_logprobs"], 0.0)
    mask, sums = torch.from_numpy(case.mask.copy()), segment_sum or sums_over_segments(case)
    recorded = _Recorded("correction", columns, given)
    return Arguments(CorrectionInputs(torch.from_numpy(log_ratio).to(dtype), mask, sums, recorded), columns)


def _of_tokens(case: Case, dtype: torch.dtype) -> dict[str, Any]:
    """The columns of a micro-batch: 0 where the mask is False, floating-point numbers in this type."""
    return {
        name: column.to(dtype, copy=True) if column.is_floating_point() else column.clone()
        for name, column in case.masked.items()
    }


def _of_rows(case: Case, noise: NDArray[np.float64] | float) -> dict[str, Any]:
    """The columns of a whole batch before it is prepared: those of tokens [T, ...], those of rows [R, ...]."""
    first = np.cumsum(case.lengths) - case.lengths
    made = {}
    for name, column in case.columns.items():
        if name not in FIELDS or FIELDS[name].made_by is Maker.preparation:
            continue
        own = FIELDS[name].scope is Scope.token
        made[name] = column + noise if own and column.ndim == 1 and column.dtype.kind == "f" else column.copy()
        if not own:
            made[name] = column[first]
    return made

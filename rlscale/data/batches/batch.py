"""A batch: columns of NumPy arrays, one row per segment; per-token columns are concatenated without padding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rlscale.data.batches.fields import FIELDS, Scope, equally_wide
from rlscale.data.sample import Group, Sample


@dataclass(frozen=True)
class Batch:
    """Rows (segments) of ragged length.

    `offsets` is int64 [rows + 1]; the tokens of row r are `offsets[r]:offsets[r + 1]` of every token column.
    `columns` maps names of `FIELDS` to arrays: [tokens_total] for the scope `token` (and then as many axes as the field
    has itself), [rows] for `segment` and `sample`, 0-d for `batch`. A batch is never changed in place: `with_column`
    and `select` make new ones.
    """

    offsets: NDArray[np.int64]
    columns: dict[str, NDArray] = field(default_factory=dict)

    @staticmethod
    def from_groups(groups: Sequence[Group], steps: int = 1) -> Batch:
        """One row per segment, in the order of groups and samples; whole groups are divided evenly over `steps` steps.

        Columns: tokens, loss_mask, rollout_logprobs, versions, sample, step, group, prompt, reward, prompt_length,
        truncated, routed_experts where samples have them, and what the samples' own `columns` bring. ValueError where
        only some samples have a column, or in sizes that do not fit; KeyError for one that `FIELDS` does not have.
        """
        samples = [sample for group in groups for sample in group.samples]
        sizes = [len(group.samples) for group in groups]
        segments = [segment for sample in samples for segment in sample.segments]
        row_sample = np.repeat(
            np.arange(len(samples)), np.array([len(sample.segments) for sample in samples], np.int64)
        )
        group = np.repeat(np.arange(len(groups), dtype=np.int64), sizes)[row_sample]
        offsets = np.zeros(len(segments) + 1, np.int64)
        np.cumsum([segment.length for segment in segments], out=offsets[1:])
        batch = Batch(offsets)
        values: dict[str, ArrayLike] = {
            name: np.concatenate([getattr(sample, name) for sample in samples]) if samples else []
            for name in ("tokens", "loss_mask", "rollout_logprobs", "versions")
        }
        names = {"reward": "reward", "truncated": "truncated", "prompt": "prompt_index"}
        values |= {name: np.array([getattr(s, own) for s in samples])[row_sample] for name, own in names.items()}
        values |= {"sample": row_sample, "group": group, "prompt_length": [segment.context for segment in segments]}
        values["step"] = group * steps // max(len(groups), 1)
        if (routed := _routed_experts(samples)) is not None:
            values["routed_experts"] = routed
        for name in sorted({name for sample in samples for name in sample.columns}):
            if name in values:
                raise ValueError(f"samples bring the column {name!r} in `columns`, which every batch has already")
            brought = _brought(name, samples)
            values[name] = brought if FIELDS[name].scope is Scope.token else brought[row_sample]
        for name, value in values.items():
            batch = batch.with_column(name, value)
        return batch

    @property
    def rows(self) -> int:
        """Number of segments."""
        return len(self.offsets) - 1

    @cached_property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of each row, int64 [rows]."""
        return np.diff(self.offsets)

    @property
    def tokens_total(self) -> int:
        """Tokens of all rows."""
        return int(self.offsets[-1])

    def __contains__(self, name: str) -> bool:
        return name in self.columns

    def column(self, name: str) -> NDArray:
        """The column of that name; KeyError with the names that exist."""
        if name not in self.columns:
            raise KeyError(f"the batch has no column {name!r}, only {sorted(self.columns)}")
        return self.columns[name]

    def row(self, name: str, row: int) -> NDArray:
        """The values of one row of a token column, [lengths[row], ...] (a view)."""
        return self.column(name)[self.offsets[row] : self.offsets[row + 1]]

    def with_column(self, name: str, values: ArrayLike) -> Batch:
        """This batch with one column added or replaced; cast to the field's type.

        KeyError for a name that `FIELDS` does not have, ValueError for a wrong shape or values of another type.
        """
        spec = FIELDS[name]
        array = np.asarray(values, dtype=spec.dtype)
        expected = {Scope.token: (self.tokens_total,), Scope.batch: ()}.get(spec.scope, (self.rows,))
        if array.shape[: len(expected)] != expected or array.ndim != len(expected) + spec.axes:
            own = f" and {spec.axes} axes of its own" if spec.axes else ""
            raise ValueError(f"column {name!r} ({spec.scope.value}) has shape {array.shape}, expected {expected}{own}")
        return Batch(self.offsets, {**self.columns, name: array})

    def without(self, name: str) -> Batch:
        """This batch without a column, if it has that."""
        return Batch(self.offsets, {other: values for other, values in self.columns.items() if other != name})

    def places_of(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Where the tokens of these rows are in the columns of tokens, row after row, int64."""
        lengths = self.lengths[rows]
        before = np.cumsum(lengths) - lengths
        return np.arange(lengths.sum()) + np.repeat(self.offsets[rows] - before, lengths)

    def select(self, rows: ArrayLike) -> Batch:
        """The given rows (int64, any order), with all their columns."""
        rows = np.asarray(rows, np.int64)
        offsets = np.zeros(len(rows) + 1, np.int64)
        np.cumsum(self.lengths[rows], out=offsets[1:])
        pick = {Scope.token: self.places_of(rows), Scope.segment: rows, Scope.sample: rows}
        columns = {
            name: values if FIELDS[name].scope is Scope.batch else values[pick[FIELDS[name].scope]]
            for name, values in self.columns.items()
        }
        return Batch(offsets, columns)


def _routed_experts(samples: Sequence[Sample]) -> NDArray[np.int16] | None:
    """The column of that name, [tokens_total, layers, top_k]; None where no sample has one."""
    routed = [sample.routed_experts for sample in samples if sample.routed_experts is not None]
    if not routed:
        return None
    if len(routed) < len(samples):
        raise ValueError(f"{len(routed)} of {len(samples)} samples have routed_experts: either all must, or none")
    sizes = sorted({experts.shape[1:] for experts in routed})
    if len(sizes) > 1:
        raise ValueError(f"samples have routed_experts of different models: layers and top_k are {sizes}")
    return np.concatenate(routed)


def _brought(name: str, samples: Sequence[Sample]) -> NDArray:
    """A column that samples bring: one value per token concatenated, or one per sample."""
    scope = FIELDS[name].scope
    lacking = sum(name not in sample.columns for sample in samples)
    if lacking:
        raise ValueError(
            f"{len(samples) - lacking} of {len(samples)} samples bring the column {name!r}: either all must, or none"
        )
    if scope is Scope.batch:
        raise ValueError(f"samples bring the column {name!r}, of which the whole batch has one value")
    columns = equally_wide([np.asarray(sample.columns[name]) for sample in samples], FIELDS[name])
    if scope is not Scope.token:
        return np.array(columns)
    for sample, column in zip(samples, columns, strict=True):
        if column.shape[:1] != sample.tokens.shape:
            raise ValueError(
                f"a sample of prompt {sample.prompt_index} brings {name!r} of shape {column.shape} for its "
                f"{len(sample.tokens)} tokens; a column of tokens needs a value for each, the prompt's included"
            )
    return np.concatenate(columns)

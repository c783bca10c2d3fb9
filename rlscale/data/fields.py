"""The registry of batch fields: it alone says how a column is stored, sent, sliced and filled."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

import numpy as np


class Scope(Enum):
    """What a column has one value for.

    `token`: each token of each row. `segment` and `sample`: each row (all rows of a sample hold the same value where
    the scope is `sample`). `batch`: the whole batch, a 0-d array.
    """

    token = "token"
    segment = "segment"
    sample = "sample"
    batch = "batch"


@dataclass(frozen=True)
class Field:
    """One column of a batch.

    `context_sliced`: whether context parallelism cuts it along the tokens. `fill`: the value of padding and dummies.
    `axes`: number of axes that a token's value has itself. `of_input`: it belongs to the pass of the token through the
    model; other token columns are of the position that predicts the token.
    """

    name: str
    dtype: np.dtype
    scope: Scope
    context_sliced: bool
    fill: float | int | bool
    axes: int = 0
    of_input: bool = False


def _token(name: str, dtype: type, fill: float | int | bool = 0) -> Field:
    return Field(name, np.dtype(dtype), Scope.token, context_sliced=True, fill=fill)


def _row(name: str, dtype: type, scope: Scope, fill: float | int | bool = 0) -> Field:
    return Field(name, np.dtype(dtype), scope, context_sliced=False, fill=fill)


FIELDS: dict[str, Field] = {
    field.name: field
    for field in (
        # One value per token, aligned to the token itself (not to the position that predicts it).
        Field("tokens", np.dtype(np.int32), Scope.token, context_sliced=True, fill=0, of_input=True),
        _token("loss_mask", np.bool_, False),
        _token("rollout_logprobs", np.float32),
        _token("versions", np.int32, -1),
        _token("loss_weight", np.float32),
        _token("advantages", np.float32),
        _token("old_logprobs", np.float32),
        _token("ref_logprobs", np.float32),
        _token("teacher_logprobs", np.float32),
        _token("values", np.float32),  # by the critic before the iteration's first step
        _token("returns", np.float32),  # what the critic's values should have been
        _token("value_weight", np.float32),  # weight of the token in the critic's loss
        _token("correction", np.float32),  # factor on the token's policy loss
        # The experts that the engine sent the token to, [tokens, layers, top_k]; -1 where it did not say.
        Field("routed_experts", np.dtype(np.int16), Scope.token, context_sliced=True, fill=-1, axes=2, of_input=True),
        # One value per row.
        _row("sample", np.int64, Scope.segment, -1),  # number of the row's sample within the iteration
        _row("step", np.int64, Scope.segment, -1),  # optimizer step (of one epoch) that trains on the row
        _row("group", np.int64, Scope.sample, -1),  # number of the sample's group within the iteration
        _row("prompt", np.int64, Scope.sample, -1),  # Prompt.index
        _row("reward", np.float64, Scope.sample, float("nan")),
        _row("prompt_length", np.int64, Scope.sample),
        _row("truncated", np.bool_, Scope.sample, False),
        # One value for the batch.
        _row("version", np.int64, Scope.batch, -1),  # the trainer's weight version
    )
}
"""Every column that a batch may have, by name."""

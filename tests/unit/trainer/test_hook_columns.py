"""Which columns a hook is given, how they look, and what is said of the others."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from rlscale.config.errors import UserError
from rlscale.data.batches.batch import Batch
from rlscale.data.batches.fields import FIELDS, Field, Scope
from rlscale.trainer.hook_columns import row_columns, sample_columns, token_columns

FIELDS.register(Field("test_weight", np.float32, Scope.sample))


def batch() -> Batch:
    made = Batch(np.array([0, 2, 5])).with_column("loss_mask", [False, True, True, False, True])
    made = made.with_column("rollout_logprobs", [-9, -1, -2, np.nan, -4]).with_column("ref_logprobs", -np.arange(5.0))
    return made.with_column("test_weight", [2.0, 3.0])


def test_a_whole_batch_has_tokens_masked_in_float64_and_rows_as_they_are() -> None:
    columns = row_columns("advantage", batch(), ["ref_logprobs"])
    assert columns["rollout_logprobs"].tolist() == [0, -1, -2, 0, -4]
    assert columns["rollout_logprobs"].dtype == np.float64
    assert columns["ref_logprobs"].tolist() == [0, -1, -2, 0, -4]
    assert columns["test_weight"].tolist() == [2.0, 3.0]


def test_a_hook_cannot_change_the_batch() -> None:
    own = batch()
    for name in ("test_weight", "rollout_logprobs", "loss_mask"):
        row_columns("advantage", own)[name][:] = 0
    assert own.column("test_weight").tolist() == [2.0, 3.0]
    assert own.column("rollout_logprobs")[1] == -1
    assert own.column("loss_mask").any()


def test_tokens_of_a_micro_batch_are_masked_whatever_their_axes() -> None:
    fields = {"rollout_logprobs": torch.tensor([torch.nan, 2.0]), "versions": torch.tensor([[5, 5], [6, 7]])}
    columns = token_columns("loss", fields, torch.tensor([False, True]), torch.float64)
    assert columns["rollout_logprobs"].tolist() == [0.0, 2.0]
    assert columns["rollout_logprobs"].dtype is torch.float64
    assert columns["versions"].tolist() == [[0, 0], [6, 7]]


def test_a_score_sees_what_has_one_value_per_sample() -> None:
    columns = sample_columns("score", batch(), lambda name: np.array([7.0]))
    assert list(columns) == ["test_weight"]
    assert columns["test_weight"].tolist() == [7.0]


@pytest.mark.parametrize(
    ("kind", "name", "message"),
    [
        (
            "advantage",
            "ref_logprobs",
            r"^algo\.advantage\.function reads .*; ask for it with algo\.advantage\.reads=",
        ),
        ("reduction", "values", "which a model computes; only advantage and loss can ask for one$"),
        (
            "loss",
            "test_wait",
            "'test_wait', which this batch does not have; it has loss_mask, rollout_",
        ),
    ],
)
def test_a_column_that_is_not_there_is_named_with_what_to_do(kind, name: str, message: str) -> None:
    columns = row_columns(kind, batch())
    with pytest.raises(UserError, match=message):
        columns[name]
    assert name not in columns
    assert columns.get(name) is None

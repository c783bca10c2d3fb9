"""Columns are shifted to the predicting position on the way in, and back on the way out."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from rlscale.data.batches.batch import Batch
from rlscale.data.batches.fields import FIELDS, Field, Scope
from rlscale.data.batches.rank_shard import RankShard
from rlscale.trainer.megatron.batch.microbatch import build_microbatch, build_steps
from rlscale.trainer.megatron.ranks.slicing import Slicing

CPU = torch.device("cpu")

FIELDS.register(Field("test_row", np.float32, Scope.segment, fill=-1))
FIELDS.register(Field("test_axes", np.float32, Scope.token, axes=1))
FIELDS.register(Field("test_input", np.int64, Scope.token, of_input=True))
FIELDS.register(Field("test_whole", np.int64, Scope.batch))
FIELDS.register(Field("test_text", "<U9", Scope.sample, fill=0))


def batch() -> Batch:
    made = Batch(np.array([0, 3, 5, 9]))
    made = made.with_column("tokens", np.arange(10, 19)).with_column("loss_weight", np.arange(9) / 8)
    return made.with_column("loss_mask", np.array([0, 1, 1, 0, 1, 0, 0, 1, 1], bool)).with_column(
        "versions", np.arange(9)
    )


def test_fields_belong_to_the_predicted_token() -> None:
    made = build_microbatch(batch(), np.array([2, 0]), Slicing(), CPU, attend=True)
    assert made.tokens.tolist() == [[15, 16, 17, 18, 10, 11, 12]]
    assert made.labels.tolist() == [16, 17, 18, 0, 11, 12, 0]
    assert made.fields["loss_mask"].tolist() == [False, True, True, False, True, True, False]
    assert made.fields["loss_weight"].tolist() == [6 / 8, 7 / 8, 1.0, 0.0, 1 / 8, 2 / 8, 0.0]
    assert made.fields["versions"].tolist() == [6, 7, 8, -1, 1, 2, -1]
    assert "tokens" not in made.fields


def test_every_column_for_the_ranks_is_carried_those_of_rows_at_each_of_their_tokens() -> None:
    own = batch().with_column("test_row", [1.5, 2.5, 3.5]).with_column("test_axes", np.arange(18).reshape(9, 2))
    own = own.with_column("test_input", np.arange(20, 29)).with_column("test_whole", 6).with_column("reward", [1, 2, 3])
    made = build_microbatch(own, np.array([2, 0]), Slicing(tensor_size=4), CPU, attend=True).fields
    assert made["test_row"].tolist() == [3.5, 3.5, 3.5, -1, 1.5, 1.5, -1, -1]
    assert made["test_axes"][:4].tolist() == [[12, 13], [14, 15], [16, 17], [0, 0]]
    assert made["test_input"].tolist() == [25, 26, 27, 28, 20, 21, 22, 0]
    assert made["test_whole"].item() == 6
    assert "reward" not in made  # registered as the driver's own


def test_a_column_that_torch_has_no_type_for_is_an_error_and_not_left_out() -> None:
    named = batch().with_column("test_text", ["a", "b", "c"])
    with pytest.raises(ValueError, match="'test_text' cannot be carried to the ranks: torch has no type for <U9"):
        build_microbatch(named, np.array([0]), Slicing(), CPU, attend=True)


def test_two_tokens_further_a_position_predicts_within_its_row_and_the_mask_is_the_predicted_tokens() -> None:
    """Row 2 is 15 16 17 18, of which 17 and 18 are trainable: 15 predicts 17, 16 predicts 18. Row 0 is 10 11 12."""
    made = build_microbatch(batch(), np.array([2, 0]), Slicing(), CPU, attend=True)
    assert made.tokens.tolist() == [[15, 16, 17, 18, 10, 11, 12]]
    assert made.mtp is not None
    assert made.mtp.trainable.tolist() == [0, 1, 4]
    assert made.mtp.labels.tolist() == [17, 18, 12]
    assert made.mtp.weights.tolist() == [7 / 8, 1.0, 2 / 8]
    assert made.labels[made.mtp.trainable].tolist() == [16, 17, 11]  # whose embeddings are read there


def test_two_tokens_further_every_context_rank_predicts_its_own_share() -> None:
    expected = {(15, 17, 7 / 8), (16, 18, 1.0), (10, 12, 2 / 8)}
    found = []
    for rank in range(2):
        slicing = Slicing(context_size=2, context_rank=rank)
        made = build_microbatch(batch(), np.array([2, 1, 0]), slicing, CPU, attend=True)
        assert made.mtp is not None
        read = made.tokens[0, made.mtp.trainable].tolist()
        found += zip(read, made.mtp.labels.tolist(), made.mtp.weights.tolist(), strict=True)
    assert len(found) == len(expected)
    assert set(found) == expected


def test_a_row_of_two_tokens_or_a_dummy_predicts_nothing_two_tokens_further() -> None:
    for rows in ([1], []):
        made = build_microbatch(batch(), np.array(rows, np.int64), Slicing(), CPU, attend=True)
        assert made.mtp is not None
        assert len(made.mtp.trainable) == len(made.mtp.labels) == len(made.mtp.weights) == 0


def test_routed_experts_belong_to_the_input_token() -> None:
    routed = np.arange(9 * 2 * 3).reshape(9, 2, 3)  # tokens, layers, top_k
    made = build_microbatch(
        batch().with_column("routed_experts", routed), np.array([2, 1]), Slicing(tensor_size=4), CPU, attend=True
    )
    assert made.tokens.tolist() == [[15, 16, 17, 18, 13, 14, 0, 0]]
    assert made.routed_experts is not None
    np.testing.assert_array_equal(made.routed_experts[:6], routed[[5, 6, 7, 8, 3, 4]])
    assert (made.routed_experts[6:] == -1).all()  # padding
    assert "routed_experts" not in made.fields
    dummy = build_microbatch(
        batch().with_column("routed_experts", routed), np.zeros(0, np.int64), Slicing(), CPU, attend=True
    )
    assert dummy.routed_experts is not None
    assert dummy.routed_experts.shape == (1, 2, 3)
    assert (dummy.routed_experts == -1).all()


@pytest.mark.parametrize("context", [1, 2])
def test_outputs_return_to_their_tokens(context: int) -> None:
    rows = np.array([2, 0])
    column = np.zeros(7, np.float32)
    for rank in range(context):
        made = build_microbatch(batch(), rows, Slicing(context, rank), CPU, attend=True)
        column += made.column(made.labels.float())
    assert column.tolist() == [0, 16, 17, 18, 0, 11, 12]  # a row's first token is predicted by nothing


def test_dummy_has_tokens_but_no_trainable_one() -> None:
    made = build_microbatch(batch(), np.zeros(0, np.int64), Slicing(2, 0, 2), CPU, attend=True)
    assert made.tokens.shape == (1, 2)
    assert not made.fields["loss_mask"].any()
    assert made.fields["loss_weight"].tolist() == [0.0, 0.0]
    assert made.column(torch.ones(2)).size == 0


def test_steps_are_filled_up_with_dummies() -> None:
    part = RankShard(batch(), [[np.array([0]), np.array([1]), np.array([2])]], np.arange(3))
    (step,) = build_steps(part, Slicing(), CPU, attend=True, multiple=2)
    assert [len(made.rows) for made in step] == [1, 1, 1, 0]

"""Batches: columns, alignment, selection."""

from __future__ import annotations

import numpy as np
import pytest

from rlscale.data.batches.batch import Batch
from rlscale.data.batches.fields import FIELDS
from rlscale.data.sample import Group, Prompt, Sample


def make_group(index: int, prompt: list[int], responses: list[list[int]], version: int = 3) -> Group:
    """A group whose log-probs are -(token / 10)."""
    task = Prompt(index, str(index), np.array(prompt, np.int32), "label")
    samples = []
    for number, response in enumerate(responses):
        tokens = np.array(response, np.int32)
        sample = Sample.from_response(task, number, tokens, (-tokens / 10).astype(np.float32), version)
        sample.reward = float(number)
        samples.append(sample)
    return Group(task, samples)


@pytest.fixture
def batch() -> Batch:
    return Batch.from_groups([make_group(7, [1, 2], [[3], [4, 5]]), make_group(9, [6], [[7, 8, 9]])], steps=2)


def test_columns_are_concatenated_in_order_of_groups_and_samples(batch: Batch) -> None:
    assert batch.lengths.tolist() == [3, 4, 4]
    assert batch.column("tokens").tolist() == [1, 2, 3, 1, 2, 4, 5, 6, 7, 8, 9]
    assert batch.column("loss_mask").tolist() == [False, False, True, False, False, True, True, False, True, True, True]
    assert batch.column("versions").tolist() == [-1, -1, 3, -1, -1, 3, 3, -1, 3, 3, 3]
    assert batch.column("sample").tolist() == [0, 1, 2]
    assert batch.column("group").tolist() == [0, 0, 1]
    assert batch.column("prompt").tolist() == [7, 7, 9]
    assert batch.column("reward").tolist() == [0.0, 1.0, 0.0]
    assert batch.column("step").tolist() == [0, 0, 1]


def test_logprobs_stand_at_their_own_token_and_are_zero_on_the_prompt(batch: Batch) -> None:
    np.testing.assert_allclose(batch.row("rollout_logprobs", 1), [0, 0, -0.4, -0.5])


def test_selected_rows_keep_all_their_columns_in_the_asked_order(batch: Batch) -> None:
    chosen = batch.with_column("version", 5).select([2, 0])
    assert chosen.column("tokens").tolist() == [6, 7, 8, 9, 1, 2, 3]
    assert chosen.column("sample").tolist() == [2, 0]
    assert chosen.column("version") == 5
    assert chosen.offsets.tolist() == [0, 4, 7]


def test_an_empty_selection_and_an_empty_batch_have_no_tokens(batch: Batch) -> None:
    assert batch.select([]).tokens_total == 0
    assert Batch.from_groups([]).rows == 0


def test_a_column_of_the_wrong_shape_or_name_is_refused(batch: Batch) -> None:
    with pytest.raises(ValueError, match=r"'advantages' \(token\) has shape \(3,\), expected \(11,\)"):
        batch.with_column("advantages", [1, 2, 3])
    with pytest.raises(KeyError, match="advantage' is not a batch field"):
        batch.with_column("advantage", np.zeros(11))


def test_whole_groups_are_divided_evenly_over_steps() -> None:
    groups = [make_group(i, [1], [[2], [3]]) for i in range(6)]
    step = Batch.from_groups(groups, steps=3).column("step")
    assert step.tolist() == [0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2]


def test_every_column_of_a_batch_has_the_type_of_the_registry(batch: Batch) -> None:
    for name, values in batch.columns.items():
        assert values.dtype == FIELDS[name].dtype


def routed_group(index: int, prompt: list[int], responses: list[list[int]], layers: int = 2) -> Group:
    """A group whose experts of a token are [10 token + layer, 10 token + layer + 5], of `layers` layers."""
    group = make_group(index, prompt, responses)
    for sample, response in zip(group.samples, responses, strict=True):
        first = 10 * sample.tokens[:-1, None].astype(np.int16) + np.arange(layers, dtype=np.int16)
        routed = np.stack([first, first + 5], axis=-1)
        tokens = np.array(response, np.int32)
        fresh = Sample.from_response(group.prompt, sample.index, tokens, None, 3, routed_experts=routed)
        sample.routed_experts = fresh.routed_experts
    return group


def test_the_experts_of_a_token_stand_at_that_token_and_the_last_one_has_none() -> None:
    sample = routed_group(0, [1, 2], [[3, 4]]).samples[0]
    assert sample.routed_experts is not None
    assert sample.routed_experts.dtype == np.int16
    assert sample.routed_experts.tolist() == [
        [[10, 15], [11, 16]],
        [[20, 25], [21, 26]],
        [[30, 35], [31, 36]],
        [[-1, -1], [-1, -1]],
    ]


def test_experts_become_a_column_that_selection_keeps() -> None:
    batch = Batch.from_groups([routed_group(7, [1, 2], [[3], [4, 5]]), routed_group(9, [6], [[7, 8]])])
    column = batch.column("routed_experts")
    assert (column.shape, column.dtype) == ((10, 2, 2), np.int16)
    assert column[:, 0, 0].tolist() == [10, 20, -1, 10, 20, 40, -1, 60, 70, -1]
    chosen = batch.select([2, 0])
    assert chosen.column("routed_experts")[:, 1, 1].tolist() == [66, 76, -1, 16, 26, -1]
    assert chosen.row("routed_experts", 1).shape == (3, 2, 2)
    assert batch.select([]).column("routed_experts").shape == (0, 2, 2)
    assert "routed_experts" not in Batch.from_groups([make_group(7, [1, 2], [[3]])])


def test_experts_of_some_samples_only_or_of_two_models_are_refused_in_one_line() -> None:
    with pytest.raises(ValueError, match=r"^2 of 3 samples have routed_experts: either all must, or none$"):
        Batch.from_groups([routed_group(0, [1], [[2], [3]]), make_group(1, [1], [[2]])])
    with pytest.raises(ValueError, match=r"of different models: layers and top_k are \[\(2, 2\), \(3, 2\)\]$"):
        Batch.from_groups([routed_group(0, [1], [[2]]), routed_group(1, [1], [[2]], layers=3)])


def test_a_column_with_axes_of_its_own_must_have_as_many(batch: Batch) -> None:
    wanted = r"expected \(11,\) and 2 axes of its own"
    for shape in ((11,), (11, 2), (10, 2, 2), (11, 2, 2, 1)):
        with pytest.raises(ValueError, match=wanted):
            batch.with_column("routed_experts", np.zeros(shape))
    assert batch.with_column("routed_experts", np.zeros((11, 4, 1))).column("routed_experts").shape == (11, 4, 1)
    with pytest.raises(ValueError, match=r"has shape \(11, 1\), expected \(11,\)$"):
        batch.with_column("advantages", np.zeros((11, 1)))


def test_the_oldest_version_of_a_group_ignores_tokens_that_nobody_generated() -> None:
    group = make_group(0, [1, 2], [[3], [4]], version=6)
    group.samples[1].versions[-1] = 4
    assert group.min_version == 4

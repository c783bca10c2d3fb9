"""Packing: whatever the lengths, nothing is lost, the cap holds and ranks get equally many micro-batches."""

from __future__ import annotations

import numpy as np
import pytest

from rlscale.data.batch import Batch
from rlscale.data.packing import Plan, plan
from rlscale.data.part import split


def rows_of(planned: Plan) -> list[int]:
    return [int(row) for rank in planned.parts for step in rank for rows in step for row in rows]


@pytest.mark.parametrize("seed", range(60))
def test_random_rows_are_all_placed_once_under_the_cap_with_equal_counts(seed: int) -> None:
    random = np.random.default_rng(seed)
    count, ranks, align = int(random.integers(0, 150)), int(random.integers(1, 6)), int(random.choice([1, 2, 8]))
    lengths = random.integers(1, 100, count)
    steps = np.sort(random.integers(0, 3, count))
    cap = int(random.integers(20, 400))
    planned = plan(lengths, steps, ranks, cap, align)

    assert sorted(rows_of(planned)) == list(range(count))
    costs = -(-lengths // align) * align
    assert planned.oversized == (costs > cap).sum()
    for rank in planned.parts:
        assert [len(step) for step in rank] == planned.microbatches
        for number, step in enumerate(rank):
            assert len(step) >= 1
            for rows in step:
                assert (steps[rows] == number).all()
                assert costs[rows].sum() <= cap or len(rows) == 1


@pytest.mark.parametrize("seed", range(10))
def test_the_number_of_microbatches_is_near_the_least_possible(seed: int) -> None:
    random = np.random.default_rng(seed)
    lengths = random.integers(10, 500, 400)
    planned = plan(lengths, np.zeros(400, int), 4, 2000)
    assert planned.microbatches[0] <= -(-lengths.sum() // 2000 // 4) + 1


def test_ranks_get_about_equal_work() -> None:
    lengths = np.random.default_rng(0).integers(10, 500, 512)
    planned = plan(lengths, np.zeros(512, int), 4, 4096)
    loads = [sum(lengths[rows].sum() for rows in rank[0]) for rank in planned.parts]
    assert max(loads) / min(loads) < 1.02


def test_a_row_over_the_cap_stands_alone_and_is_counted() -> None:
    planned = plan([50, 5, 5], [0, 0, 0], 1, 20)
    assert planned.oversized == 1
    assert [rows.tolist() for rows in planned.parts[0][0]] == [[0], [1, 2]]


def test_ranks_without_rows_get_dummies() -> None:
    planned = plan([5], [0], 3, 20)
    assert [[rows.tolist() for rows in rank[0]] for rank in planned.parts] == [[[0]], [[]], [[]]]


def test_alignment_counts_against_the_cap() -> None:
    assert plan([9, 9], [0, 0], 1, 20, align=1).microbatches == [1]
    assert plan([9, 9], [0, 0], 1, 20, align=16).microbatches == [2]


def test_the_same_rows_are_planned_the_same_way() -> None:
    lengths = np.random.default_rng(1).integers(1, 50, 100)
    first, second = (plan(lengths, np.zeros(100, int), 2, 300) for _ in range(2))
    assert rows_of(first) == rows_of(second)


def test_parts_hold_the_rows_of_their_rank_and_number_them_from_zero() -> None:
    lengths = np.array([3, 1, 2, 4, 2])
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    batch = Batch(offsets).with_column("tokens", np.arange(12)).with_column("sample", np.arange(5))
    parts = split(batch, plan(lengths, [0, 0, 0, 1, 1], 2, 4))

    assert sorted(np.concatenate([part.row_ids for part in parts])) == [0, 1, 2, 3, 4]
    for part in parts:
        local = np.concatenate([rows for step in part.steps for rows in step])
        assert sorted(local) == list(range(part.batch.rows))
        assert part.batch.column("sample").tolist() == part.row_ids.tolist()
        for row, whole in enumerate(part.row_ids):
            assert part.batch.row("tokens", row).tolist() == batch.row("tokens", int(whole)).tolist()

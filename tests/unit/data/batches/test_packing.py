"""Packing: whatever the lengths, nothing is lost, the cap holds, ranks get equally many bins and equal work."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from rlscale.data.batches.batch import Batch
from rlscale.data.batches.packing import CostModel, Padding, Plan, plan
from rlscale.data.batches.rank_shard import split

EVEN = CostModel(1.0, 0.0)


def rows_of(planned: Plan) -> list[int]:
    return [int(row) for rank in planned.parts for step in rank for rows in step for row in rows]


def as_lists(planned: Plan) -> list[list[list[list[int]]]]:
    return [[[rows.tolist() for rows in step] for step in rank] for rank in planned.parts]


def work(planned: Plan, lengths: NDArray, cost: CostModel) -> NDArray:
    """Work of every micro-batch of the first step: [ranks, micro-batches]."""
    costs = cost.of(lengths)
    return np.array([[costs[rows].sum() for rows in rank[0]] for rank in planned.parts])


def slowest_over_mean(planned: Plan, lengths: NDArray, cost: CostModel) -> float:
    totals = work(planned, lengths, cost).sum(1)
    return float(totals.max() / totals.mean())


def responses(count: int, seed: int = 0, longest: int = 32_768) -> NDArray:
    """Log-normal lengths with a median of 1,000 and a long tail."""
    return np.clip(np.random.default_rng(seed).lognormal(np.log(1000), 1.0, count), 16, longest).astype(np.int64)


@pytest.mark.parametrize("seed", range(100))
def test_random_rows_are_all_placed_once_under_the_cap_with_equal_counts(seed: int) -> None:
    random = np.random.default_rng(seed)
    count, ranks, align = int(random.integers(0, 150)), int(random.integers(1, 6)), int(random.choice([1, 2, 8]))
    multiple = int(random.choice([1, 1, 2, 4]))
    longest = int(random.choice([20, 100, 1000]))
    lengths = np.clip(random.lognormal(3, 1, count), 1, longest).astype(np.int64)
    steps = np.sort(random.integers(0, 3, count))
    cap = int(random.integers(20, 400))
    cost = CostModel(1.0, float(random.choice([0.0, 0.001, 0.1])))
    total = align * int(random.choice([1, 1, 3, 8]))
    lockstep = bool(seed % 2)
    planned = plan(lengths, steps, ranks, cap, align, total=total, multiple=multiple, cost=cost, lockstep=lockstep)

    assert sorted(rows_of(planned)) == list(range(count))
    tokens = -(-lengths // align) * align
    assert planned.oversized == (-(-tokens // total) * total > cap).sum()
    assert all(number >= 1 and number % multiple == 0 for number in planned.microbatches)
    for rank in planned.parts:
        assert [len(step) for step in rank] == planned.microbatches
        for number, step in enumerate(rank):
            assert [len(rows) > 0 for rows in step] == sorted((len(rows) > 0 for rows in step), reverse=True)
            for rows in step:
                assert (steps[rows] == number).all()
                assert (np.diff(rows) > 0).all()
                assert -(-tokens[rows].sum() // total) * total <= cap or len(rows) == 1


def test_a_hand_made_step_has_the_division_that_one_would_choose() -> None:
    planned = plan([8, 7, 3, 2, 6, 4], [0] * 6, 1, 10, cost=EVEN)
    assert as_lists(planned) == [[[[0, 3], [1, 2], [4, 5]]]]

    # Attention makes the row of 8 cost 8 + 64 / 8 = 16, nearly as much as the others together: 6 + 6 + 2.5 + 2.5 = 17.
    lengths = np.array([8, 4, 4, 2, 2])
    planned = plan(lengths, [0] * 5, 2, 12, cost=CostModel(1.0, 1 / 8))
    assert as_lists(planned) == [[[[1, 2, 3, 4]]], [[[0]]]]


@pytest.mark.parametrize("seed", range(10))
def test_the_number_of_microbatches_is_near_the_least_possible(seed: int) -> None:
    random = np.random.default_rng(seed)
    lengths = random.integers(10, 500, 400)
    planned = plan(lengths, np.zeros(400, int), 4, 2000)
    assert planned.microbatches[0] <= -(-lengths.sum() // 2000 // 4) + 1


def test_hardly_any_capacity_is_left_empty_where_there_are_many_microbatches() -> None:
    lengths = responses(20_000)
    planned = plan(lengths, np.zeros(20_000, int), 8, 32_768)
    assert lengths.sum() / (8 * planned.microbatches[0] * 32_768) > 0.98


def test_long_rows_that_fit_badly_take_few_more_microbatches_than_their_sum() -> None:
    lengths = np.random.default_rng(0).integers(4_000, 16_000, 4_000)
    planned = plan(lengths, np.zeros(4_000, int), 4, 32_768)
    assert lengths.sum() / (4 * planned.microbatches[0] * 32_768) > 0.965


def test_ranks_get_about_equal_work() -> None:
    lengths = np.random.default_rng(0).integers(10, 500, 512)
    planned = plan(lengths, np.zeros(512, int), 4, 4096)
    assert slowest_over_mean(planned, lengths, CostModel()) < 1.003


@pytest.mark.parametrize("quadratic", [1 / 50_000, 1 / 16_000])
@pytest.mark.parametrize("seed", range(3))
def test_work_is_equal_on_64_ranks_although_one_row_fills_a_microbatch(seed: int, quadratic: float) -> None:
    lengths, cost = responses(8192, seed), CostModel(1.0, quadratic)
    lengths[0] = 32_768
    planned = plan(lengths, np.zeros(8192, int), 64, 32_768, cost=cost)
    assert work(planned, lengths, cost).max() > 1.3 * work(planned, lengths, cost).mean()
    assert slowest_over_mean(planned, lengths, cost) < 1.005


def test_balancing_flops_beats_balancing_tokens_on_skewed_lengths() -> None:
    lengths = np.concatenate([np.full(12, 30_000), np.full(1_800, 600)])
    cost = CostModel(1.0, 1 / 16_000)
    by_flops, by_tokens = (plan(lengths, np.zeros(1_812, int), 8, 32_768, cost=model) for model in (cost, EVEN))
    assert slowest_over_mean(by_flops, lengths, cost) < 1.005
    assert slowest_over_mean(by_tokens, lengths, cost) > 1.04
    assert slowest_over_mean(by_tokens, lengths, EVEN) < 1.005


def test_one_more_microbatch_is_taken_where_full_ones_keep_work_from_moving() -> None:
    lengths = np.concatenate([np.full(9, 32_000), np.full(2_080, 600)])
    cost = CostModel(1.0, 1 / 16_000)
    least = -(-int(lengths.sum()) // 32_768 // 8)
    planned = plan(lengths, np.zeros(len(lengths), int), 8, 32_768, cost=cost)
    assert planned.microbatches == [least + 1]
    assert slowest_over_mean(planned, lengths, cost) < 1.03
    assert plan(lengths, np.zeros(len(lengths), int), 8, 32_768, cost=EVEN).microbatches == [least]


def test_a_microbatch_costs_about_the_same_on_every_rank() -> None:
    lengths = responses(8192, longest=8_000)
    loads = work(plan(lengths, np.zeros(8192, int), 16, 16_384), lengths, CostModel())
    assert loads.max(0).sum() < 1.01 * loads.sum(1).mean()
    assert (np.diff(loads, axis=1) <= 1e-6).all()


def test_long_rows_come_together_where_ranks_would_wait_for_a_few() -> None:
    lengths, cost = responses(8192), CostModel(1.0, 1 / 16_000)
    lengths[0] = 32_768
    loads = work(plan(lengths, np.zeros(8192, int), 64, 32_768, cost=cost), lengths, cost)
    assert loads.max() == cost.of(32_768)
    assert loads[:, 0].mean() > 1.3 * loads[:, 1:].mean()


def test_lockstep_shortens_the_sum_of_the_slowest_microbatches() -> None:
    lengths, cost = responses(8192), CostModel(1.0, 1 / 16_000)
    lengths[0] = 32_768
    loose, tied = (
        work(plan(lengths, np.zeros(8192, int), 64, 32_768, cost=cost, lockstep=lockstep), lengths, cost)
        for lockstep in (False, True)
    )
    assert tied.max(0).sum() < 0.99 * loose.max(0).sum()
    assert loose.sum(1).max() < 0.99 * tied.sum(1).max()


def test_a_row_over_the_cap_stands_alone_and_is_counted() -> None:
    planned = plan([50, 5, 5], [0, 0, 0], 1, 20)
    assert planned.oversized == 1
    assert as_lists(planned) == [[[[0], [1, 2]]]]


def test_only_rows_over_the_cap() -> None:
    planned = plan([50, 60, 70], [0, 0, 0], 2, 20)
    assert planned.oversized == 3
    assert sorted(rows_of(planned)) == [0, 1, 2]
    assert planned.microbatches == [2]


def test_ranks_without_rows_get_dummies() -> None:
    assert as_lists(plan([5], [0], 3, 20)) == [[[[0]]], [[[]]], [[[]]]]


def test_microbatches_that_a_virtual_pipeline_asks_for_are_used() -> None:
    planned = plan([5] * 8, [0] * 8, 1, 20, multiple=4)
    assert [len(rows) for rows in planned.parts[0][0]] == [2, 2, 2, 2]
    assert plan([5] * 20, [0] * 20, 1, 20, multiple=4).microbatches == [8]


def test_alignment_counts_against_the_cap() -> None:
    assert plan([9, 9], [0, 0], 1, 20, align=1).microbatches == [1]
    assert plan([9, 9], [0, 0], 1, 20, align=16).microbatches == [2]


def test_the_padding_of_the_whole_counts_once_against_the_cap() -> None:
    # Each of 11 tokens: eight of them are 88, which 16 does not divide, seven are 77 and become 80.
    assert [len(rows) for rows in plan([11] * 14, [0] * 14, 1, 90, total=16).parts[0][0]] == [7, 7]
    assert plan([11] * 14, [0] * 14, 1, 90, align=16).microbatches == [3]
    assert plan([81, 80], [0, 0], 1, 90, total=16).oversized == 1  # 81 becomes 96
    assert plan([1, 2], [0, 0], 1, 10, total=16).oversized == 2  # no micro-batch is as small as that


@pytest.mark.parametrize(
    ("context", "shares", "padding"),
    [(1, 1, (1, 1)), (1, 8, (1, 8)), (2, 1, (4, 4)), (2, 2, (4, 4)), (2, 8, (4, 16)), (4, 3, (8, 24))],
)
def test_rows_are_padded_for_context_parallelism_and_the_whole_for_sequence_parallelism(
    context: int, shares: int, padding: tuple[int, int]
) -> None:
    assert Padding.of_layout(context, shares) == Padding(*padding)


@pytest.mark.parametrize(("context", "shares"), [(1, 1), (1, 8), (2, 1), (4, 3)])
def test_every_rank_that_shares_a_micro_batch_has_a_multiple_of_its_tokens(context: int, shares: int) -> None:
    padding = Padding.of_layout(context, shares, 16)
    assert padding.row == Padding.of_layout(context, shares).row
    assert padding.total / (context * shares) % 16 == 0


def test_the_same_rows_are_planned_the_same_way() -> None:
    lengths = responses(2_000)
    first, second = (plan(lengths, np.arange(2_000) % 3, 16, 32_768) for _ in range(2))
    assert as_lists(first) == as_lists(second)


@pytest.mark.parametrize("sizes", [(0, 10, 1, 1), (1, 0, 1, 1), (1, 10, 0, 1), (1, 10, 1, 0)])
def test_sizes_must_be_positive(sizes: tuple[int, int, int, int]) -> None:
    ranks, cap, align, multiple = sizes
    with pytest.raises(ValueError, match="must be positive"):
        plan([1], [0], ranks, cap, align, multiple=multiple)


def test_cost_of_a_transformer_counts_causal_attention() -> None:
    # Per token 2 FLOPs forward and 4 backward per weight; per layer and pair of tokens 2 x 2 x head sizes, half of them
    # causal, thrice for forward and backward.
    cost = CostModel.of_transformer(matrix_parameters=1_000, layers=2, heads=4, head_dim=8)
    assert cost.of([10]).tolist() == [6 * 1_000 * 10 + 3 * 2 * (2 * 2 * 10 * 10 / 2) * 32]


def test_a_cost_model_without_work_is_refused() -> None:
    with pytest.raises(ValueError, match="must be positive"):
        CostModel(linear=0.0)
    with pytest.raises(ValueError, match="not negative"):
        CostModel(quadratic=-1.0)


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

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from rlscale.algo.corrections import (
    ACTIONS,
    KINDS,
    LEVELS,
    CorrectionResult,
    bounds,
    importance_weights,
    log_ratio,
    off_policy_masked,
    rejected,
)
from tests.unit.algo.mismatched import logs, mask_of, noisy, tokens_of_rows
from tests.unit.algo.ragged import ragged
from tests.unit.algo.segment_sums import sum_over, sum_over_rows

every_kind = pytest.mark.parametrize(
    ("kind", "action"), [("tis", "truncate"), ("icepop", "truncate"), *(("mis", action) for action in ACTIONS)]
)
every_level = pytest.mark.parametrize("level", LEVELS)


@pytest.mark.parametrize(
    ("kind", "action", "weights", "outside"),
    [
        ("tis", "truncate", [0.125, 1.0, 2.0, 2.0, 1.0], [0, 0, 1, 1, 0]),
        ("icepop", "truncate", [0.0, 1.0, 4.0, 0.0, 1.0], [1, 0, 0, 1, 0]),
        ("mis", "truncate", [0.125, 1.0, 2.0, 2.0, 1.0], [0, 0, 1, 1, 0]),
        ("mis", "clip", [0.5, 1.0, 2.0, 2.0, 1.0], [1, 0, 1, 1, 0]),
        ("mis", "mask", [0.0, 1.0, 0.0, 0.0, 1.0], [1, 0, 1, 1, 0]),
    ],
)
def test_token_weights_by_hand_at_the_default_bounds(
    kind: str, action: str, weights: list[float], outside: list[int]
) -> None:
    # w = 1/8, 1, 4, 8; the last token is not in the mask.
    log_w = torch.cat([logs(0.125, 1.0, 4.0, 8.0), torch.tensor([77.0], dtype=torch.float64)])
    result = importance_weights(kind, log_w, mask_of(1, 1, 1, 1, 0), sum_over([0] * 5), level="token", action=action)
    np.testing.assert_allclose(result.weights, weights, rtol=1e-14)
    assert result.outside.tolist() == mask_of(*outside).tolist()
    assert not result.clamped.any()


@pytest.mark.parametrize(
    ("level", "weights"),
    [("token", [4.0, 1.0, 16.0, 0.25]), ("sequence", [64.0, 64.0, 64.0, 0.25]), ("geometric", [8.0, 8.0, 8.0, 0.25])],
)
def test_levels_by_hand_share_the_product_or_the_geometric_mean_of_a_segment(level: str, weights: list[float]) -> None:
    # Segment one: 4 and 16, with a token between them that is not in the mask; segment two: 1/4.
    result = importance_weights(
        "tis", logs(4.0, 9.0, 16.0, 0.25), mask_of(1, 0, 1, 1), sum_over([0, 0, 0, 1]), level=level, upper=100.0
    )
    np.testing.assert_allclose(result.weights, weights, rtol=1e-14)


def test_a_segment_outside_the_bounds_is_outside_with_all_its_tokens() -> None:
    # Product 3/8: out of mis's 1/2 .. 2. Geometric mean sqrt(3/8) = 0.61: inside, although its tokens are not.
    log_w, mask, total = logs(3.0, 0.125, 1.0), mask_of(1, 1, 1), sum_over([0, 0, 1])
    by_sequence = importance_weights("mis", log_w, mask, total, level="sequence", action="mask")
    by_mean = importance_weights("mis", log_w, mask, total, level="geometric", action="mask")
    assert by_sequence.weights.tolist() == [0.0, 0.0, 1.0]
    assert by_sequence.outside.tolist() == [True, True, False]
    np.testing.assert_allclose(by_mean.weights, [math.sqrt(0.375)] * 2 + [1.0], rtol=1e-14)
    assert not by_mean.outside.any()


def test_bounds_of_ones_own_replace_the_defaults_and_are_inclusive() -> None:
    log_w, mask = logs(0.9, 1.0, 1.1), mask_of(1, 1, 1)
    result = importance_weights("icepop", log_w, mask, sum_over([0] * 3), level="token", lower=1.0, upper=1.0)
    assert result.weights.tolist() == [0.0, 1.0, 0.0]
    assert result.outside.tolist() == [True, False, True]
    clipped = importance_weights("tis", log_w, mask, sum_over([0] * 3), level="token", lower=0.95, upper=1.05)
    np.testing.assert_allclose(clipped.weights, [0.95, 1.0, 1.05], rtol=1e-14)


@pytest.mark.parametrize(
    ("kind", "action", "expected"),
    [
        ("tis", "truncate", (0.0, 2.0)),
        ("icepop", "truncate", (0.5, 5.0)),
        ("mis", "truncate", (0.0, 2.0)),
        ("mis", "clip", (0.5, 2.0)),
        ("mis", "mask", (0.5, 2.0)),
    ],
)
def test_default_bounds(kind: str, action: str, expected: tuple[float, float]) -> None:
    assert bounds(kind, action, None, None) == expected


def test_the_lower_bound_of_mis_follows_its_upper_bound() -> None:
    assert bounds("mis", "mask", None, 4.0) == (0.25, 4.0)
    assert bounds("mis", "mask", 0.1, 4.0) == (0.1, 4.0)
    assert bounds("mis", "truncate", None, 4.0) == (0.0, 4.0)


@every_kind
@every_level
@pytest.mark.parametrize("seed", range(3))
def test_weights_agree_with_a_loop_on_ragged_input(kind: str, action: str, level: str, seed: int) -> None:
    data, log_w, mask = noisy(seed)
    low, high = bounds(kind, action, None, None)
    weights, outside = np.ones(len(data.mask)), np.zeros(len(data.mask), dtype=bool)
    for tokens in tokens_of_rows(data):
        differences = [data.old[t] - data.rollout[t] for t in tokens]
        for t in range(len(data.mask)):
            in_row = bool(tokens) and data.row_of_token[t] == data.row_of_token[tokens[0]]
            if not (t in tokens if level == "token" else in_row):
                continue
            own = data.old[t] - data.rollout[t]
            w = math.exp({"token": own, "sequence": sum(differences), "geometric": np.mean(differences)}[level])
            outside[t] = not low <= w <= high
            zero = kind == "icepop" or action == "mask"
            weights[t] = (0.0 if outside[t] else w) if zero else min(max(w, low), high)
    result = importance_weights(kind, log_w, mask, sum_over_rows(data), level=level, action=action)
    assert outside.any()
    np.testing.assert_allclose(result.weights, weights, rtol=1e-12)
    np.testing.assert_array_equal(result.outside, outside)


@every_kind
@every_level
def test_equal_logprobs_change_nothing(kind: str, action: str, level: str) -> None:
    data = ragged(2)
    old, mask = torch.from_numpy(data.old), torch.from_numpy(data.mask)
    same = log_ratio(old, old, mask)
    result = importance_weights(kind, same, mask, sum_over_rows(data), level=level, action=action)
    assert (result.weights == 1.0).all()
    assert not result.outside.any()
    assert not result.clamped.any()
    out = rejected(same, mask, sum_over_rows(data), level=level, lower=1.0, upper=1.0, veto=1.0)
    assert not out.any()
    assert not off_policy_masked(old, old, -torch.ones_like(old), mask, sum_over_rows(data), delta=0.0).any()


@every_kind
@every_level
@pytest.mark.parametrize("difference", [-100.0, 100.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_differences_of_a_hundred_stay_finite_and_are_counted(
    kind: str, action: str, level: str, difference: float, dtype: torch.dtype
) -> None:
    log_w = torch.tensor([difference, 0.5], dtype=dtype)
    result = importance_weights(kind, log_w, mask_of(1, 1), sum_over([0, 1]), level=level, action=action)
    low, high = bounds(kind, action, None, None)
    weight = result.weights[0].item()
    assert result.weights.dtype == dtype
    assert weight == 0.0 if kind == "icepop" or action == "mask" else low <= weight <= high
    assert result.outside.tolist() == [difference > 0 or low > 0.0, False]
    assert result.clamped.tolist() == [True, False]


def test_the_weight_of_a_clamped_token_is_that_of_the_bound() -> None:
    result = importance_weights(
        "tis", torch.tensor([100.0, -100.0]), mask_of(1, 1), sum_over([0, 1]), level="token", upper=1e30
    )
    np.testing.assert_allclose(result.weights, [math.exp(20), math.exp(-20)], rtol=1e-6)


def test_a_long_segment_is_clamped_by_its_sum_and_not_by_its_mean() -> None:
    many = torch.full((1000,), 0.1, dtype=torch.float64)
    mask, total = torch.ones(1000, dtype=torch.bool), sum_over([0] * 1000)
    by_level = {level: importance_weights("tis", many, mask, total, level=level) for level in LEVELS}
    assert by_level["sequence"].clamped.all()
    assert (by_level["sequence"].weights == 2.0).all()
    for level in ("token", "geometric"):
        assert not by_level[level].clamped.any()
        np.testing.assert_allclose(by_level[level].weights, math.exp(0.1), rtol=1e-12)


@every_kind
@every_level
@pytest.mark.parametrize("tokens", [0, 3])
def test_nothing_to_correct_leaves_every_weight_at_one(kind: str, action: str, level: str, tokens: int) -> None:
    log_w, none = torch.full((tokens,), 50.0), torch.zeros(tokens, dtype=torch.bool)
    total = sum_over([0, 0, 1][:tokens])
    # Bounds that do not contain 1: there is nothing that could be outside of them.
    result = importance_weights(
        kind, log_w, none, total, level=level, action=action, upper=0.9, lower=lower_for(action, kind)
    )
    assert result.weights.tolist() == [1.0] * tokens
    assert not result.outside.any()
    assert not result.clamped.any()
    assert not rejected(log_w, none, total, level=level, lower=2.0, upper=3.0, veto=1e-4).any()
    assert not rejected(log_w, none, total, level=level, lower=0.1, upper=0.5, veto=1e-4).any()
    assert not off_policy_masked(log_w, -log_w, -torch.ones(tokens), none, total, delta=-1.0).any()


def lower_for(action: str, kind: str) -> float | None:
    return None if kind == "mis" and action == "truncate" else 0.1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("tiss", "truncate", None, None), "tis, icepop, mis"),
        (("mis", "drop", None, None), "truncate, clip, mask"),
        (("mis", "truncate", 0.5, None), "would not act"),
        (("mis", "mask", None, 0.5), "lower <= upper, not 2.0 and 0.5"),
        (("icepop", "truncate", 3.0, 2.0), "lower <= upper"),
        (("tis", "truncate", -1.0, None), "0 <= lower"),
        (("tis", "truncate", None, 0.0), "positive"),
        (("tis", "truncate", None, math.nan), "positive"),
    ],
)
def test_bounds_that_cannot_act_are_refused(arguments: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        bounds(*arguments)


def test_an_unknown_level_is_refused() -> None:
    log_w, mask, total = torch.zeros(1), mask_of(1), sum_over([0])
    with pytest.raises(ValueError, match="token, sequence, geometric"):
        importance_weights("tis", log_w, mask, total, level="sample")
    with pytest.raises(ValueError, match="token, sequence, geometric"):
        rejected(log_w, mask, total, level="sample", lower=None, upper=None, veto=None)


def test_log_ratio_by_hand_never_reads_outside_the_mask() -> None:
    old, rollout = torch.tensor([-1.0, math.nan, math.inf]), torch.tensor([-3.0, 1.0, -math.inf])
    assert log_ratio(old, rollout, mask_of(1, 0, 0)).tolist() == [2.0, 0.0, 0.0]


def test_log_ratio_is_at_least_float32() -> None:
    low = torch.tensor([-0.5], dtype=torch.bfloat16)
    assert log_ratio(low, low, mask_of(1)).dtype == torch.float32
    assert log_ratio(low.double(), low, mask_of(1)).dtype == torch.float64


def test_no_correction_has_a_gradient() -> None:
    lp = logs(0.5, 3.0).requires_grad_()
    mask, total = mask_of(1, 1), sum_over([0, 0])
    difference = log_ratio(lp, torch.zeros(2), mask)
    assert not difference.requires_grad
    for level in LEVELS:
        for kind in KINDS:
            result = importance_weights(kind, lp, mask, total, level=level)
            assert not result.weights.requires_grad
        rejected(lp, mask, total, level=level, lower=0.5, upper=2.0, veto=1e-4)
    off_policy_masked(lp, torch.zeros(2), -torch.ones(2), mask, total, delta=0.1)


@every_level
def test_other_tokens_are_seen_through_the_segment_sum_alone(level: str) -> None:
    # So that a segment may lie on several ranks: any order of the tokens gives each its own numbers.
    data, log_w, mask = noisy(4)
    order = np.random.default_rng(0).permutation(len(data.mask))
    totals = (sum_over(data.row_of_token), sum_over(data.row_of_token[order]))

    def results(index: np.ndarray, total) -> tuple[CorrectionResult, torch.Tensor]:
        weights = importance_weights("icepop", log_w[index], mask[index], total, level=level)
        return weights, rejected(log_w[index], mask[index], total, level=level, lower=0.5, upper=2.0, veto=0.3)

    whole, shuffled = results(np.arange(len(order)), totals[0]), results(order, totals[1])
    np.testing.assert_allclose(shuffled[0].weights, whole[0].weights[order], rtol=1e-12)
    np.testing.assert_array_equal(shuffled[0].outside, whole[0].outside[order])
    np.testing.assert_array_equal(shuffled[1], whole[1][order])

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from rlscale.algo.corrections import LEVELS, off_policy_masked, rejected
from tests.unit.algo.mismatched import logs, mask_of, noisy, tokens_of_rows
from tests.unit.algo.segment_sums import sum_over, sum_over_rows

every_level = pytest.mark.parametrize("level", LEVELS)


@pytest.mark.parametrize(
    ("level", "expected"),
    [("token", [1, 1, 0, 0]), ("sequence", [0, 0, 1, 1]), ("geometric", [0, 0, 0, 0])],
)
def test_rejection_by_hand_by_tokens_by_product_and_by_geometric_mean(level: str, expected: list[int]) -> None:
    # Bounds 1/2 .. 2. Segment one: 4 and 1/4, product 1. Segment two: 3/2 twice, product 9/4, geometric mean 3/2.
    out = rejected(
        logs(4.0, 0.25, 1.5, 1.5),
        mask_of(1, 1, 1, 1),
        sum_over([0, 0, 1, 1]),
        level=level,
        lower=0.5,
        upper=2.0,
        veto=None,
    )
    assert out.tolist() == mask_of(*expected).tolist()


def test_one_token_under_the_veto_rejects_its_whole_segment() -> None:
    log_w = logs(1.0, 0.9e-4, 1.0, 1.1e-4, 1e-9)
    mask = mask_of(1, 1, 1, 1, 0)
    out = rejected(log_w, mask, sum_over([0, 0, 1, 1, 1]), level=None, lower=None, upper=None, veto=1e-4)
    assert out.tolist() == [True, True, False, False, False]


def test_veto_and_bounds_both_reject() -> None:
    # Geometric means 1e-2, 3 and 1.
    log_w, mask, total = logs(1e-5, 10.0, 3.0, 1.0), mask_of(1, 1, 1, 1), sum_over([0, 0, 1, 2])
    both = rejected(log_w, mask, total, level="geometric", lower=1e-3, upper=2.0, veto=1e-4)
    assert both.tolist() == [True, True, True, False]
    without = rejected(log_w, mask, total, level="geometric", lower=1e-3, upper=2.0, veto=None)
    assert without.tolist() == [False, False, True, False]


def test_one_bound_alone_acts_on_its_own_side() -> None:
    log_w, mask, total = logs(0.1, 10.0), mask_of(1, 1), sum_over([0, 1])
    assert rejected(log_w, mask, total, level="token", lower=0.5, upper=None, veto=None).tolist() == [True, False]
    assert rejected(log_w, mask, total, level="token", lower=None, upper=2.0, veto=None).tolist() == [False, True]
    assert rejected(log_w, mask, total, level="token", lower=0.0, upper=2.0, veto=None).tolist() == [False, True]
    assert not rejected(log_w, mask, total, level=None, lower=None, upper=None, veto=None).any()


@every_level
@pytest.mark.parametrize("seed", range(3))
def test_rejection_agrees_with_a_loop_on_ragged_input(level: str, seed: int) -> None:
    data, log_w, mask = noisy(seed)
    expected = np.zeros(len(data.mask), dtype=bool)
    for row, tokens in enumerate(tokens_of_rows(data)):
        w = [math.exp(data.old[t] - data.rollout[t]) for t in tokens]
        if not w:
            continue
        product = math.prod(w)
        held = {"token": w, "sequence": [product], "geometric": [product ** (1 / len(w))]}[level]
        expected[data.row_of_token == row] = any(not 0.6 <= x <= 1.9 for x in held) or min(w) < 0.2
    out = rejected(log_w, mask, sum_over_rows(data), level=level, lower=0.6, upper=1.9, veto=0.2)
    assert expected[data.mask].any()
    assert not expected[data.mask].all()
    np.testing.assert_array_equal(out, expected)


@every_level
@pytest.mark.parametrize("difference", [-100.0, 100.0])
def test_a_ratio_of_a_hundred_in_logarithms_is_rejected(level: str, difference: float) -> None:
    log_w = torch.tensor([difference, 0.0])
    out = rejected(log_w, mask_of(1, 1), sum_over([0, 1]), level=level, lower=1e-10, upper=1e10, veto=None)
    assert out.tolist() == [True, False]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"level": None, "lower": 0.5, "upper": None, "veto": None}, "need a level"),
        ({"level": "token", "lower": 2.0, "upper": 0.5, "veto": None}, "over the upper bound"),
        ({"level": "token", "lower": -0.5, "upper": None, "veto": None}, "lower is a bound of a ratio"),
        ({"level": None, "lower": None, "upper": None, "veto": -1.0}, "veto is a bound of a ratio"),
    ],
)
def test_rejection_bounds_that_cannot_act_are_refused(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        rejected(torch.zeros(1), mask_of(1), sum_over([0]), **arguments)


# Off-policy sequence masking


def test_off_policy_masking_by_hand_takes_the_segments_mean_drift_and_the_tokens_sign() -> None:
    # rollout - lp: segment one 0.5 and 1.5 (mean 1 over its trainable tokens), segment two 0.25, segment three -3.
    lp = torch.tensor([-1.0, -99.0, -2.0, -1.0, -4.0], dtype=torch.float64)
    rollout = torch.tensor([-0.5, 0.0, -0.5, -0.75, -7.0], dtype=torch.float64)
    advantages = torch.tensor([-1.0, 0.0, 1.0, -1.0, -1.0])
    mask, total = mask_of(1, 0, 1, 1, 1), sum_over([0, 0, 0, 1, 2])

    def masked(delta: float) -> list[bool]:
        return off_policy_masked(lp, rollout, advantages, mask, total, delta=delta).tolist()

    assert masked(0.9) == [True, False, False, False, False]
    assert masked(0.2) == [True, False, False, True, False]
    assert masked(1.0) == [False] * 5, "the bound itself is allowed"
    assert masked(0.25) == [True, False, False, False, False]


@pytest.mark.parametrize("seed", range(3))
def test_off_policy_masking_agrees_with_a_loop_on_ragged_input(seed: int) -> None:
    data, _, mask = noisy(seed)
    advantages = np.where(data.mask, np.random.default_rng(seed).normal(size=data.mask.shape), 0.0)
    expected = np.zeros(len(data.mask), dtype=bool)
    for tokens in tokens_of_rows(data):
        for t in tokens:
            drift = sum(data.rollout[s] - data.logprobs[s] for s in tokens) / len(tokens)
            expected[t] = advantages[t] < 0 and drift > 0.1
    lp, rollout, adv = (torch.from_numpy(x) for x in (data.logprobs, data.rollout, advantages))
    assert expected.any()
    np.testing.assert_array_equal(off_policy_masked(lp, rollout, adv, mask, sum_over_rows(data), delta=0.1), expected)

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from rlscale.algo.mismatch import largest_difference, mismatch_sums, summarise
from tests.unit.algo.ragged import ragged


def metrics_of(old: torch.Tensor, rollout: torch.Tensor, selected: torch.Tensor) -> dict[str, float]:
    sums, _ = mismatch_sums(old, rollout, selected)
    return summarise({name: float(value) for name, value in sums.items()})


def test_metrics_by_hand() -> None:
    # w = 2, 1/2 on the selected tokens.
    old = torch.tensor([math.log(2.0), 7.0, -math.log(2.0)], dtype=torch.float64)
    metrics = metrics_of(old, torch.zeros(3), torch.tensor([True, False, True]))
    assert metrics["abs_mean"] == pytest.approx(math.log(2.0))
    assert metrics["k3"] == pytest.approx((1 - math.log(2) + -0.5 + math.log(2)) / 2)
    assert metrics["ess"] == pytest.approx(2.5**2 / (2 * 4.25))
    assert metrics["chi2"] == pytest.approx(4.25 / 2 - 1)
    assert metrics["outside"] == 0.0


@pytest.mark.parametrize(("weight", "outside"), [(2.01, 1.0), (1.99, 0.0), (0.501, 0.0), (0.499, 1.0)])
def test_a_ratio_is_outside_under_a_half_and_over_two(weight: float, outside: float) -> None:
    old = torch.tensor([math.log(weight), 0.0, 9.0], dtype=torch.float64)
    assert metrics_of(old, torch.zeros(3), torch.tensor([True, True, False]))["outside"] == outside / 2


def test_the_largest_difference_is_that_of_the_selected_tokens() -> None:
    old = torch.tensor([math.log(2.0), 7.0, -math.log(2.0)], dtype=torch.float64)
    assert largest_difference(old, torch.zeros(3), torch.tensor([False, False, True])).item() == pytest.approx(
        math.log(2)
    )


def test_equal_logprobs_mean_no_mismatch() -> None:
    same = torch.linspace(-3, 0, 7)
    metrics = metrics_of(same, same, torch.ones(7, dtype=torch.bool))
    assert metrics == {"abs_mean": 0, "k3": 0, "ess": 1, "chi2": 0, "outside": 0}


def test_sums_of_the_parts_are_the_sums_of_the_whole() -> None:
    data = ragged(0)
    columns = [torch.from_numpy(x) for x in (data.old, data.rollout, data.mask)]
    whole, _ = mismatch_sums(*columns)
    parts = [mismatch_sums(*(c[i::3] for c in columns))[0] for i in range(3)]
    for name, value in whole.items():
        assert sum(float(p[name]) for p in parts) == pytest.approx(float(value), rel=1e-12)


def test_metrics_agree_with_numpy_on_ragged_input() -> None:
    data = ragged(5)
    d = (data.old - data.rollout)[data.mask]
    w = np.exp(d)
    metrics = metrics_of(*(torch.from_numpy(x) for x in (data.old, data.rollout, data.mask)))
    expected = {
        "abs_mean": np.abs(d).mean(),
        "k3": (w - 1 - d).mean(),
        "ess": w.sum() ** 2 / (len(w) * (w**2).sum()),
        "chi2": (w**2).mean() - 1,
        "outside": ((w < 0.5) | (w > 2.0)).mean(),
    }
    assert metrics == pytest.approx(expected, rel=1e-9)


def test_no_selected_token_gives_no_metric_and_no_maximum() -> None:
    none = torch.zeros(2, dtype=torch.bool)
    assert metrics_of(torch.zeros(2), torch.ones(2), none) == {}
    assert largest_difference(torch.zeros(2), torch.ones(2), none).item() == float("-inf")
    assert largest_difference(torch.zeros(0), torch.zeros(0), none[:0]).item() == float("-inf")


@pytest.mark.parametrize("difference", [-100.0, 100.0])
def test_differences_of_a_hundred_stay_finite_and_are_counted(difference: float) -> None:
    selected = torch.ones(1, dtype=torch.bool)
    sums, clamped = mismatch_sums(torch.tensor([difference]), torch.zeros(1), selected)
    assert clamped.all()
    assert all(math.isfinite(v) for v in summarise({k: float(v) for k, v in sums.items()}).values())


def test_what_stands_in_unselected_positions_is_never_read() -> None:
    old = torch.tensor([0.5, float("nan"), float("inf")])
    metrics = metrics_of(old, torch.zeros(3), torch.tensor([True, False, False]))
    assert metrics["abs_mean"] == pytest.approx(0.5)

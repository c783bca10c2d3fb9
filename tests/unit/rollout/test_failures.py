"""When failures are too many."""

from __future__ import annotations

import pytest

from rlscale.config.errors import UserError
from rlscale.rollout.failures import FailureRate


def test_failures_are_counted_against_the_last_window_only() -> None:
    rate = FailureRate("rewards", "reward.max_failure_rate", 0.2, 10)
    for _ in range(20):
        for _ in range(4):
            rate.success()
        rate.failure("x")
    assert rate.total == 20
    # Two of the last ten failed, which is allowed; the oldest of the ten was a success.
    with pytest.raises(UserError, match=r"3 of the last 10 rewards failed, .*max_failure_rate=0.2 of 10 .*: why"):
        rate.failure("why")


def test_with_a_bound_of_zero_the_first_failure_is_one_too_many() -> None:
    with pytest.raises(UserError, match="1 of the last 1"):
        FailureRate("requests", "k", 0.0, 10).failure("x")

"""When each engine had requests, by those that it answered."""

from __future__ import annotations

from rlscale.rollout.engines.busy_times import BusyTimes


def test_requests_that_lie_over_one_another_are_one_time_and_those_of_other_engines_another() -> None:
    clock = iter([4.0, 5.0, 6.0, 9.0, 9.5, 20.0])
    busy = BusyTimes(lambda: next(clock))
    for start, engine in ((1.0, "a"), (2.0, "b"), (3.5, "a"), (8.0, "a"), (5.5, "b"), (0.0, "")):
        busy.answered(start, {"engine": engine} if engine else {})
    assert busy.take() == {"a": [(1.0, 6.0), (8.0, 9.0)], "b": [(2.0, 5.0), (5.5, 9.5)]}
    assert busy.take() == {}


def test_a_long_request_takes_in_what_was_answered_before_it() -> None:
    clock = iter([2.0, 4.0, 6.0])
    busy = BusyTimes(lambda: next(clock))
    for start in (1.0, 3.0, 0.5):
        busy.answered(start, {"engine": "a"})
    assert busy.take() == {"a": [(0.5, 6.0)]}

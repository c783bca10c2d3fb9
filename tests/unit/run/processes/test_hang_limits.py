"""A call that takes many times as long as those of its kind hangs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rlscale.run.processes.hang_limits import HangLimits
from rlscale.run.processes.remote_calls import Calls, ProcessLost
from rlscale.run.processes.stop_signal import StopSignal
from tests.unit.run.processes.played_calls import played_calls

Waits = Callable[..., Any]


def seconds_of(limits: HangLimits, kind: str, *, stopping: bool = False) -> float | None:
    found = limits.of(kind, stopping=stopping)
    return None if found is None else found[0]


def test_a_limit_is_a_multiple_of_the_longest_of_its_kind_and_not_below_six_silences() -> None:
    limits = HangLimits(20.0, 20.0)
    for seconds in (100.0, 4.0, 9.0, 5.0):
        limits.took("training step", seconds)
        if seconds == 100.0:
            assert limits.of("training step") is None, "the first one compiles"
    for _ in range(2):
        limits.took("pass for logprobs", 1.0)
    assert (seconds_of(limits, "training step"), seconds_of(limits, "pass for logprobs")) == (180.0, 120.0)
    assert limits.of("training step") == (180.0, "20 times the longest before, 9 s, but at least 120 s")


def test_a_user_who_wants_the_run_to_end_waits_less() -> None:
    limits = HangLimits(20.0, 20.0)
    for kind, seconds in (("short", 0.1), ("long", 60.0)) * 2:
        limits.took(kind, seconds)
    assert [seconds_of(limits, kind, stopping=True) for kind in ("short", "long")] == [8.0, 180.0]
    assert limits.of("long", stopping=True) == (180.0, "3 times the longest before, 60 s, but at least 8 s")
    few = HangLimits(2.0, 1.0)
    for _ in range(2):
        few.took("long", 60.0)
    assert few.of("long", stopping=True) == (120.0, "2 times the longest before, 60 s, but at least 6 s")
    none = HangLimits(None, 20.0)
    for seconds in (9.0, 4.0):
        none.took("step", seconds)
    assert (none.of("step"), seconds_of(none, "step", stopping=True)) == (None, 27.0)


def test_a_user_who_wants_the_run_to_end_loses_no_step_that_takes_as_long_as_the_first_did() -> None:
    limits = HangLimits(20.0, 20.0)
    assert seconds_of(limits, "training step", stopping=True) == 8.0, "nothing was made that could be lost"
    limits.took("training step", 60.0)
    assert seconds_of(limits, "training step", stopping=True) == 180.0
    assert seconds_of(limits, "weight sync", stopping=True) == 180.0, "the first of its kind, which saves what was made"
    limits.took("weight sync", 1.0)
    assert seconds_of(limits, "weight sync", stopping=True) == 8.0
    limits.others()
    assert seconds_of(limits, "training step", stopping=True) == 180.0, "others warm up as long"


def test_others_warm_up_and_the_longest_of_those_before_counts() -> None:
    limits = HangLimits(20.0, 20.0)
    for seconds in (100.0, 9.0):
        limits.took("training step", seconds)
    limits.others()
    assert limits.of("training step") is None
    limits.took("training step", 50.0)
    assert seconds_of(limits, "training step") == 180.0


def test_without_a_factor_there_is_no_limit() -> None:
    limits = HangLimits(None, 20.0)
    for _ in range(2):
        limits.took("training step", 4.0)
    assert limits.of("training step") is None


@pytest.fixture
def stop() -> StopSignal:
    return StopSignal()


@pytest.fixture
def now() -> list[float]:
    """Seconds of the clock that goes a second on at each poll."""
    return [0.0]


@pytest.fixture
def calls(stop: StopSignal, now: list[float], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Calls:
    return played_calls(stop, now, tmp_path, monkeypatch)


@pytest.fixture
def waits(calls: Calls, now: list[float]) -> Waits:
    """Waits for a call that takes so many seconds."""

    def waiting(seconds: float, what: str = "training step", **options: Any) -> float:
        began = now[0]
        calls.one(began + seconds, what, **options)
        return now[0] - began

    return waiting


def test_a_step_that_hangs_is_lost_long_before_the_deadline_of_all_calls(waits: Waits) -> None:
    for _ in range(2):
        waits(50, measured=True)
        waits(3, "pass for logprobs", measured=True)
    assert waits(400, measured=True) == 400, "it may take ten times the 50 s of the longest"
    late = r"pass for logprobs did not finish within 30 s \(cluster\.hang_factor, 10 times the longest before, 3 s"
    with pytest.raises(ProcessLost, match=late) as caught:
        waits(500, "pass for logprobs", measured=True)
    assert caught.value.from_within


def test_once_the_run_is_to_end_a_step_that_hangs_is_given_up_soon(waits: Waits, stop: StopSignal) -> None:
    for _ in range(2):
        waits(1, measured=True)
    stop.ask()
    assert waits(7, measured=True) == 7
    with pytest.raises(ProcessLost, match=r"within 21 s \(cluster\.hang_factor, 3 times the longest before, 7 s, but"):
        waits(30, measured=True)
    with pytest.raises(ProcessLost, match=r"within 21 s .*, 3 times the longest of all calls before, 7 s, but"):
        waits(30, "the first of its kind", measured=True)


def test_before_the_end_of_a_job_nothing_is_given_up_sooner(waits: Waits, stop: StopSignal) -> None:
    for _ in range(2):
        waits(1, measured=True)
        waits(1, "weight sync", measured="weight sync")
    stop.end_at(0.0, "the job ends")
    assert stop.requested
    assert waits(11, measured=True) == 11
    assert waits(900, "weight sync", measured="weight sync") == 900


def test_a_first_call_hangs_too_once_the_run_is_to_end(waits: Waits, stop: StopSignal) -> None:
    stop.ask()
    with pytest.raises(ProcessLost, match=r"within 8 s .*, 3 times the longest of all calls before, 0 s, but"):
        waits(30, measured=True)


def test_what_may_wait_for_others_hangs_only_once_the_run_is_to_end(waits: Waits, stop: StopSignal) -> None:
    for number in range(3):
        waits(1, f"weight sync {number}", measured="weight sync")
    assert waits(900, "weight sync 3", measured="weight sync") == 900
    stop.ask()
    with pytest.raises(ProcessLost, match=r"weight sync 4 did not finish within 950 s \(weights\.timeout_s\)"):
        waits(960, "weight sync 4", measured="weight sync", timeout_s=950.0, limit="weights.timeout_s")


def test_what_comes_first_and_may_wait_for_others_hangs_once_the_run_is_to_end(waits: Waits, stop: StopSignal) -> None:
    assert waits(2, "connecting", measured="connecting") == 2
    stop.ask()
    with pytest.raises(ProcessLost, match="connecting again did not finish within 8 s"):
        waits(30, "connecting again", measured="connecting")


def test_calls_may_have_less_time_for_a_while_and_an_error_says_why(calls: Calls, waits: Waits) -> None:
    with calls.shortened(5.0, "the run is to end"), pytest.raises(ProcessLost, match=r"5 s \(the run is to end\)"):
        waits(10)
    with calls.shortened(2000.0, "never"), pytest.raises(ProcessLost, match=r"1000 s \(cluster\.call_timeout_s\)"):
        waits(1100)
    assert waits(10) == 10


def test_calls_that_are_not_alike_have_the_deadline_of_all(waits: Waits) -> None:
    waits(1)
    assert waits(900) == 900
    for _ in range(2):
        waits(1, measured=True)
    assert waits(900) == 900
    with pytest.raises(ProcessLost, match=r"within 1000 s \(cluster\.call_timeout_s\)"):
        waits(1100)


def test_the_shorter_of_the_two_counts(waits: Waits) -> None:
    for _ in range(2):
        waits(150, measured=True)
    with pytest.raises(ProcessLost, match=r"within 1000 s \(cluster\.call_timeout_s\)"):
        waits(1100, measured=True)
    with pytest.raises(ProcessLost, match=r"within 5 s \(weights\.timeout_s\)"):
        waits(9, measured=True, timeout_s=5.0, limit="weights.timeout_s")

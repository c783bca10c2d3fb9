"""Silence: how long a server has not answered, and whose fault it is not."""

from __future__ import annotations

import threading

import pytest

from rlscale.serve.http import Unanswered
from rlscale.serve.pulse import EVERY_S, Activity, Patience, Pulse


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_only_time_in_which_somebody_looked_counts() -> None:
    clock = Clock()
    patience = Patience(clock)
    assert patience.look(True) == 0.0
    clock.now += 1.5
    assert patience.look(True) == 1.5
    clock.now += 3600.0  # the looker was stopped, or busy with something else
    assert patience.look(True) == 3.5
    clock.now += 1.0
    assert patience.look(False) == 0.0
    clock.now += 1.0
    assert patience.look(True) == 1.0


def test_a_server_is_silent_from_the_question_that_it_does_not_answer_until_it_answers() -> None:
    clock, answer, asked = Clock(), threading.Event(), []

    def ask() -> None:
        asked.append(None)
        answer.wait(10)

    pulse = Pulse(ask, clock)
    assert pulse.silence() == 0.0
    for seconds in (1.0, 2.0, 3.0):
        clock.now += 1.0
        assert pulse.silence() == seconds
    assert len(asked) == 1  # one question at a time
    answer.set()
    pulse._asking.join(10)  # type: ignore[union-attr]  # it is asking
    assert pulse.silence() == 0.0


def test_a_question_that_was_given_up_does_not_end_the_silence() -> None:
    clock, broken = Clock(), [True]

    def ask() -> None:
        if broken[0]:
            raise Unanswered("refused")

    pulse = Pulse(ask, clock)

    def looked() -> float:
        seconds = pulse.silence()
        pulse._asking.join(10)  # type: ignore[union-attr]  # it has asked
        clock.now += EVERY_S
        return seconds

    assert [looked(), looked(), looked()] == [0.0, EVERY_S, 2 * EVERY_S]
    broken[0] = False
    looked()
    assert looked() == 0.0


def test_a_question_is_out_beside_whoever_asks() -> None:
    asked, looked, ended = threading.Event(), threading.Event(), threading.Event()

    def ask() -> None:
        asked.set()
        looked.wait(30)
        ended.set()

    Pulse(ask).silence()
    assert asked.wait(30)
    assert not ended.is_set()
    looked.set()
    assert ended.wait(30)


def test_processes_are_idle_by_what_they_computed_over_a_second_however_often_somebody_looks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock, taken = Clock(), [7.0]
    monkeypatch.setattr("rlscale.serve.pulse.computed", lambda pids: taken[0])
    monkeypatch.setattr("rlscale.serve.pulse.wants_a_core", lambda pids: False)  # there is a process 1, which may
    activity = Activity(clock)
    assert not activity.is_idle([1])
    for _ in range(40):  # a busy one, which somebody looks at every few milliseconds
        clock.now += 0.05
        taken[0] += 0.02
        assert not activity.is_idle([1])
        assert not activity.is_idle([1])
    for _ in range(2):  # the first time it may have computed a little before
        clock.now += 1.5
        taken[0] += 0.04
        idle = activity.is_idle([1])
    assert idle
    assert activity.is_idle([1])
    clock.now += 1.5
    taken[0] += 0.9
    assert not activity.is_idle([1])

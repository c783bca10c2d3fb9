"""Signals become flags first and handlers are given back; the end of a job stops a run like Ctrl-C."""

from __future__ import annotations

import os
import signal
import time

import pytest

from rlscale.run.processes.stop_signal import StopRequested, StopSignal


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_becomes_a_request_to_stop(number: int) -> None:
    before = signal.getsignal(number)
    stop = StopSignal()
    stop.install()
    try:
        stop.check()
        os.kill(os.getpid(), number)
        with pytest.raises(StopRequested):
            stop.check()
    finally:
        stop.restore()
    assert signal.getsignal(number) is before
    assert stop.why is None  # who has sent it knows


@pytest.mark.parametrize(
    ("signals", "exits"),
    [
        ([(signal.SIGTERM, 0.0), (signal.SIGTERM, 0.01), (signal.SIGTERM, 0.9)], None),  # of timeout, to the group too
        ([(signal.SIGINT, 0.0), (signal.SIGINT, 0.9)], None),
        ([(signal.SIGINT, 0.0), (signal.SIGINT, 1.1)], 130),
        ([(signal.SIGTERM, 0.0), (signal.SIGTERM, 0.5), (signal.SIGTERM, 1.1)], 143),
        ([(signal.SIGTERM, 0.0), (signal.SIGINT, 0.1)], 130),  # another kind is another wish
    ],
)
def test_the_same_signal_again_within_a_second_is_one_and_a_second_one_ends_the_process(
    signals: list[tuple[int, float]], exits: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended: list[int] = []
    monkeypatch.setattr(os, "_exit", ended.append)
    times = iter([when for _, when in signals])
    stop = StopSignal(clock=lambda: next(times))
    stop.install()
    try:
        for number, _ in signals:
            signal.raise_signal(number)
    finally:
        stop.restore()
    assert stop.requested
    assert ended == ([] if exits is None else [exits])


def test_one_who_asked_otherwise_is_ended_by_the_first_signal(monkeypatch: pytest.MonkeyPatch) -> None:
    ended: list[int] = []
    monkeypatch.setattr(os, "_exit", ended.append)
    stop = StopSignal(clock=lambda: 0.0)
    stop.ask()
    stop.install()
    try:
        signal.raise_signal(signal.SIGTERM)
    finally:
        stop.restore()
    assert ended == [143]


def test_sigusr1_asks_for_a_checkpoint_and_stops_nothing() -> None:
    before = signal.getsignal(signal.SIGUSR1)
    stop = StopSignal()
    stop.install()
    try:
        os.kill(os.getpid(), signal.SIGUSR1)
        stop.check()
        assert stop.save_requested
    finally:
        stop.restore()
    assert signal.getsignal(signal.SIGUSR1) is before


def test_a_run_whose_job_ends_is_asked_to_stop_and_says_why() -> None:
    stop = StopSignal()
    stop.end_at(time.time() + 60, "the job ends")
    stop.check()
    assert (stop.requested, stop.why) == (False, None)
    stop.end_at(time.time(), "the job ends")
    with pytest.raises(StopRequested):
        stop.check()
    assert (stop.requested, stop.why) == (True, "the job ends")

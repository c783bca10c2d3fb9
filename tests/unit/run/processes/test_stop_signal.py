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

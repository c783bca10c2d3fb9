"""The stop signal: a flag first, and handlers given back."""

import os
import signal

import pytest

from rlscale.run.calls import StopRequested, StopSignal


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_becomes_a_request_to_stop(number: int):
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

"""Processes of Ray that somebody stopped go on, and nobody else's do."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from rlscale.run.processes import ray_waker
from rlscale.run.processes.ray_waker import RayWaker
from rlscale.run.processes.reaper import start_time
from rlscale.serve.pulse import stopped_of


@pytest.fixture
def stopped() -> Iterator[int]:
    """A process that a signal has stopped."""
    with subprocess.Popen([sys.executable, "-I", "-S", "-c", "import time; time.sleep(60)"]) as process:
        process.send_signal(signal.SIGSTOP)
        while not stopped_of([process.pid]):
            time.sleep(0.01)
        yield process.pid
        process.kill()


@pytest.mark.parametrize("is_the_same", [True, False])
def test_a_stopped_process_goes_on_after_a_while_unless_it_is_a_later_namesake(
    stopped: int, is_the_same: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_waker, "_EVERY_S", 0.02)
    monkeypatch.setattr(ray_waker, "STOPPED_S", 0.2)
    began = time.monotonic()
    waker = RayWaker({stopped: str(start_time(stopped)) if is_the_same else "0"})
    while stopped_of([stopped]) and time.monotonic() - began < (20.0 if is_the_same else 0.5):
        time.sleep(0.01)
    waker.close()
    assert bool(stopped_of([stopped])) != is_the_same
    assert time.monotonic() - began >= 0.2

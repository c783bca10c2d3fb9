"""Stacks of processes that cannot be asked, and of those that were not asked in vain."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from rlscale.platform.stacks import Listening, ask, doing
from rlscale.serve.pulse import stopped_of
from rlscale.serve.spied_stacks import spied, spied_families

PARENT = """
import subprocess, sys, threading
child = subprocess.Popen([sys.executable, "-c", sys.argv[1]])
def waiting_for_a_peer():
    threading.Event().wait()
print(child.pid, flush=True)
waiting_for_a_peer()
"""
CHILD = """
import time
def judging():
    time.sleep(100)
judging()
"""
TELLS = """
from rlscale.platform.stacks import tell_stacks
tell_stacks()
def waiting_for_a_peer():
    print("ready", flush=True)
    input()
waiting_for_a_peer()
"""


@pytest.fixture
def family() -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A process that waits, and the id of one that it has started."""
    with subprocess.Popen([sys.executable, "-c", PARENT, CHILD], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        yield parent, child
        os.kill(child, signal.SIGKILL)
        parent.kill()


def test_a_stopped_process_is_read_with_what_descends_from_it(family: tuple[subprocess.Popen[str], int]) -> None:
    parent, child = family
    deadline = time.monotonic() + 20
    while "judging" not in (spied(child) or "") and time.monotonic() < deadline:
        time.sleep(0.05)
    if spied(child) is None:
        pytest.skip("py-spy may read no process here (SYS_PTRACE)")
    parent.send_signal(signal.SIGSTOP)
    while not stopped_of([parent.pid]):
        time.sleep(0.01)
    found = spied_families([parent.pid])[parent.pid]
    assert {pid: doing(text) for pid, text in found.items()} == {
        parent.pid: "waiting_for_a_peer (<string>:5)",
        child: "judging (<string>:4)",
    }
    for left_out in ({"but": [child]}, {"alone": [parent.pid]}):
        assert list(spied_families([parent.pid], **left_out)[parent.pid]) == [parent.pid]


def test_a_process_that_has_not_promised_to_tell_is_not_asked_as_the_signal_would_end_it(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with log.open("w") as file:
        silent = subprocess.Popen(["sleep", "60"])
        telling = subprocess.Popen([sys.executable, "-c", TELLS], stdin=subprocess.PIPE, stdout=file, stderr=file)
    try:
        deadline = time.monotonic() + 20
        while "ready" not in log.read_text() and time.monotonic() < deadline:
            time.sleep(0.02)
        listening = Listening({"it": log})
        assert ask([silent.pid, telling.pid, 2**22 + 1]) == [telling.pid]
        assert doing(listening.heard()["it"]) == "waiting_for_a_peer (<string>:6)"
        assert (silent.poll(), telling.poll()) == (None, None)
    finally:
        for process in (silent, telling):
            process.kill()
            process.wait()


SCHEDULER = """Process 16920: sglang::scheduler
Python v3.11.7 (/usr/bin/python3.11)

Thread 16920 (idle): "MainThread"
    Poller.poll (zmq/sugar/poll.py:106)
    IdleSleeper.maybe_sleep (scheduler_components/idle_sleeper.py:36)
    {}
    Scheduler.event_loop_overlap (scheduler.py:1904)
Thread 16925 (idle): "Thread-1"
    wait (threading.py:331)
"""


def test_an_engine_without_requests_is_not_said_to_hang() -> None:
    assert doing(SCHEDULER.format("Scheduler.on_idle (scheduler.py:4555)")) is None
    assert doing(SCHEDULER.format("Scheduler.recv_requests (scheduler.py:2000)")) == "poll (poll.py:106)"


TRACKER = """Process 26814: python -c from multiprocessing.resource_tracker import main;main(3)
Python v3.11.7 (/usr/bin/python3.11)

Thread 26814 (idle): "MainThread"
    main (multiprocessing/resource_tracker.py:227)
    <module> (<string>:1)
"""


def test_who_tracks_what_spawned_processes_share_is_not_said_to_hang() -> None:
    assert doing(TRACKER) is None


LOOP = """Process 7: python -m rlscale.serve.simulator.simulated_main
Python v3.11.7 (/usr/bin/python3.11)

Thread 7 (idle): "MainThread"
    {}
    BaseEventLoop._run_once (asyncio/base_events.py:1884)
    BaseEventLoop.run_forever (asyncio/base_events.py:607)
"""


def test_a_loop_that_waits_does_nothing_and_one_that_calls_something_does_that() -> None:
    assert doing(LOOP.format("EpollSelector.select (selectors.py:468)")) is None
    assert doing(LOOP.format("judge (mine.py:9)")) == "judge (mine.py:9)"

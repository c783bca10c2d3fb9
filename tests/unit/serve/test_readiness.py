"""Waiting for a server that was started: what ends it, besides its first answer."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from rlscale.serve.http import Unanswered
from rlscale.serve.readiness import what_went_wrong


@pytest.fixture
def server() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen([sys.executable, "-I", "-S", "-c", "import time; time.sleep(60)"]) as process:
        yield process
        process.kill()


def waited(server: subprocess.Popen[bytes], healthy: Callable[[], bool], timeout_s: float = 20.0) -> str | None:
    process: Any = SimpleNamespace(pid=server.pid, exit_code=server.poll)
    return what_went_wrong(process, healthy, timeout_s, stopped_s=1.0)


def test_a_server_that_a_signal_has_stopped_is_not_waited_for_though_it_was_asked_and_the_answer_is_out(server) -> None:
    """A scheduler that is stopped before its first token keeps the question for `cluster.start_timeout_s`."""
    server.send_signal(signal.SIGSTOP)
    over, began = threading.Event(), time.monotonic()
    try:
        said = waited(server, lambda: over.wait(30.0))
    finally:
        over.set()
    assert said == "it has been stopped for 1 s (cluster.answer_timeout_s)"
    assert time.monotonic() - began < 10.0


def test_a_server_that_is_continued_in_time_is_waited_for(server) -> None:
    server.send_signal(signal.SIGSTOP)
    continued = threading.Timer(0.5, server.send_signal, [signal.SIGCONT])
    continued.start()
    began = time.monotonic()
    assert waited(server, lambda: time.monotonic() - began > 2.5) is None


def test_a_server_that_refuses_is_asked_again_until_it_answers(server) -> None:
    answers = iter([False, Unanswered("connection refused"), True])

    def healthy() -> bool:
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    assert waited(server, healthy) is None


def test_a_server_that_ends_or_takes_too_long_is_said_to(server) -> None:
    assert waited(server, lambda: False, 0.3) == "it was not healthy within 0.3 s (cluster.start_timeout_s)"
    server.kill()
    assert waited(server, lambda: False) == "it ended with exit code -9"

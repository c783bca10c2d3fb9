"""Waiting for a server that has just been started: until it is healthy, or will not be."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait

from rlscale.serve.http import CallError
from rlscale.serve.process import ServerProcess
from rlscale.serve.pulse import Patience, families_of, stopped_of

_ASK_EVERY_S = 0.1
_LOOK_EVERY_S = 1.0


def what_went_wrong(
    process: ServerProcess, healthy: Callable[[], bool], timeout_s: float, stopped_s: float
) -> str | None:
    """None once the server is healthy; otherwise why nobody waits any longer, for a message.

    It ended, was not `healthy` within `timeout_s`, or a signal (SIGSTOP) has stopped a process of it for `stopped_s`.
    The question may take long, as a first token does; CallError counts as no.
    """
    deadline, next_look, patience = time.monotonic() + timeout_s, 0.0, Patience()
    questions = ThreadPoolExecutor(1, "healthy")
    asked: Future[bool] | None = None
    try:
        while time.monotonic() < deadline:
            code = process.exit_code()
            if code is not None:
                return f"it ended with exit code {code}"
            if time.monotonic() >= next_look:
                if (stopped := patience.look(_is_stopped(process))) >= stopped_s:
                    return f"it has been stopped for {stopped:.0f} s (cluster.answer_timeout_s)"
                next_look = time.monotonic() + _LOOK_EVERY_S
            asked = asked or questions.submit(healthy)
            if wait([asked], _ASK_EVERY_S).done:
                if _is_yes(asked):
                    return None
                asked = None
                time.sleep(_ASK_EVERY_S)
        return f"it was not healthy within {timeout_s:g} s (cluster.start_timeout_s)"
    finally:
        questions.shutdown(wait=False)


def _is_stopped(process: ServerProcess) -> bool:
    return process.pid is not None and bool(stopped_of(families_of([process.pid])[process.pid]))


def _is_yes(asked: Future[bool]) -> bool:
    try:
        return asked.result()
    except CallError:
        return False

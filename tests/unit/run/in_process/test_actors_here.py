"""Actors in this process: the same calls as of Ray's, and what comes of them."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rlscale.config.errors import UserError
from rlscale.run.in_process.actors_here import ActorsHere
from rlscale.run.in_process.standing_clock import StandingClock
from rlscale.run.processes.actor_host import Place
from rlscale.run.processes.remote_calls import Calls
from rlscale.run.processes.run_failed import RunFailed
from rlscale.run.processes.stop_signal import StopSignal


class Rank:
    """Called at once, and in the thread of its caller."""

    def __init__(self, factor: int) -> None:
        self._factor = factor
        self.left = False

    def times(self, number: int) -> tuple[int, int]:
        return self._factor * number, threading.get_ident()

    def fails(self, error: BaseException) -> None:
        raise error

    def leave(self) -> None:
        self.left = True


class Service:
    """Lives on the loop."""

    def __init__(self) -> None:
        self.kept = [1]
        self.turns = 0
        self.left = False

    async def state(self) -> list[int]:
        return self.kept

    async def thread(self) -> int:
        await asyncio.sleep(0)
        return threading.get_ident()

    async def forever(self) -> None:
        while True:
            self.turns += 1
            await asyncio.sleep(0)

    async def leave(self) -> None:
        self.left = True


class Launcher:
    """Two calls wait for one another."""

    def __init__(self) -> None:
        self._both = threading.Barrier(2, timeout=10.0)

    def meet(self) -> int:
        self._both.wait()
        return threading.get_ident()

    def leave(self) -> None:
        """Nothing to end."""


@pytest.fixture
def host() -> Iterator[ActorsHere]:
    with ActorsHere(StandingClock()) as here:
        yield here


@pytest.fixture
def calls(host: ActorsHere, tmp_path: Path) -> Calls:
    return Calls(StopSignal(), 0.4, str(tmp_path), 1.0, host)


def test_a_breakpoint_in_a_rank_or_the_service_is_one_in_the_thread_of_the_driver(
    host: ActorsHere, calls: Calls
) -> None:
    rank, service, here = (
        host.start(Rank, Place(), 3),
        host.start(Service, Place(concurrency=64)),
        threading.get_ident(),
    )
    assert calls.one(rank.times.remote(host.put(4)), "a rank") == (12, here)
    assert calls.one(service.thread.remote(), "the service") == here


def test_what_the_service_answers_is_a_copy_as_from_another_process(host: ActorsHere, calls: Calls) -> None:
    service = host.start(Service, Place(concurrency=64))
    first = calls.one(service.state.remote(), "its state")
    first.append(2)
    assert calls.one(service.state.remote(), "its state") == [1]


def test_calls_of_an_actor_that_takes_several_run_beside_each_other(host: ActorsHere, calls: Calls) -> None:
    launcher = host.start(Launcher, Place(concurrency=8))
    threads = calls.wait([launcher.meet.remote(), launcher.meet.remote()], "a meeting", timeout_s=10.0)
    assert threading.get_ident() not in threads


@pytest.mark.parametrize(
    ("error", "kind", "line"),
    [
        (UserError("set it to 3"), UserError, r"^set it to 3$"),
        (KeyError("column"), RunFailed, r"^a step failed: KeyError: 'column'\. See .*error\.log$"),
        (SystemExit(0), RunFailed, r"^a step failed: RuntimeError: SystemExit: 0\. See"),
    ],
)
def test_an_error_is_told_as_that_of_a_process_of_its_own(
    error: BaseException, kind: type[Exception], line: str, host: ActorsHere, calls: Calls
) -> None:
    rank = host.start(Rank, Place(), 1)
    with pytest.raises(kind, match=line):
        calls.one(rank.fails.remote(error), "a step")
    assert calls.errors.path.exists() == (kind is RunFailed)
    if kind is RunFailed:
        assert "in fails" in calls.errors.path.read_text(), "with its traceback"


def test_the_deadline_of_a_call_is_over_after_the_time_in_which_it_could_have_answered(
    host: ActorsHere, calls: Calls
) -> None:
    service = host.start(Service, Place(concurrency=64))
    going_on = service.forever.remote()
    with pytest.raises(RunFailed, match="waiting did not finish within 0 s"):
        calls.one(going_on, "waiting", timeout_s=0.01)
    host.cancel(going_on)
    host.wait([going_on], 1.0)
    assert going_on.cancelled()


def test_actors_leave_when_they_are_ended(host: ActorsHere) -> None:
    for handle in (host.start(Rank, Place(), 1), host.start(Service, Place(concurrency=64))):
        host.end(handle)
        actor: Any = handle._actor
        assert actor.left

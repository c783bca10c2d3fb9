"""A deadline in a run that is one process: who waits for what, with the stacks of it and of the processes below it."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from rlscale.platform.stacks import doing
from rlscale.run.in_process.actors_here import ActorsHere
from rlscale.run.in_process.standing_clock import StandingClock
from rlscale.run.processes.actor_host import Place
from rlscale.run.processes.remote_calls import Calls, ProcessLost
from rlscale.run.processes.stop_signal import StopSignal
from rlscale.serve.spied_stacks import spied

SCHEDULER = """Process 7: sglang::scheduler
Python v3.11.7 (/usr/bin/python3.11)

Thread 7 (active): "MainThread"
    all_reduce (torch/distributed.py:12)
    Scheduler.run_batch (scheduler.py:30)
"""
CHILD = """
import time
def judging():
    time.sleep(100)
judging()
"""


class Service:
    async def next_batch(self) -> None:
        await self._groups()

    async def _groups(self) -> None:
        await asyncio.wait_for(asyncio.Event().wait(), 60.0)

    async def leave(self) -> None:
        """Nothing to end."""


class Launcher:
    def stacks(self) -> dict[str, str]:
        return {"engine-0": SCHEDULER}


class Unable(Launcher):
    def stacks(self) -> dict[str, str]:
        raise OSError("no such process")


@pytest.fixture
def below() -> Iterator[list[int]]:
    """Ids of two processes below this one: what judges, and what its command line calls a part of serving."""
    with ExitStack() as ends:
        pids = []
        for word in ("judge", "rlscale.serve.guard"):
            process = ends.enter_context(subprocess.Popen([sys.executable, "-c", CHILD, word]))
            ends.callback(process.kill)
            pids.append(process.pid)
        deadline = time.monotonic() + 20
        while "judging" not in (spied(pids[0]) or "") and time.monotonic() < deadline:
            time.sleep(0.05)
        yield pids


def test_a_deadline_says_where_the_run_the_engines_and_the_rewards_are(below: list[int], tmp_path: Path) -> None:
    readable = spied(below[0]) is not None
    with ActorsHere(StandingClock()) as host:
        calls = Calls(StopSignal(), 0.01, str(tmp_path), 1.0, host)
        service = host.start(Service, Place(concurrency=64))
        calls.processes.add("the rollout service", tmp_path / "none", service)
        for kind, fleet in ((Launcher, "run"), (Unable, "judge"), (Launcher, "eval")):
            launcher = host.start(kind, Place(concurrency=8))
            calls.processes.add("the launcher of machine 0", tmp_path / fleet / "0.log", launcher, servers=True)
        with pytest.raises(ProcessLost) as caught:
            calls.one(service.next_batch.remote(), "collecting")
        calls.processes.forget([service])
    hang = tmp_path / "hang"
    told, _, see = str(caught.value).partition(". ")[2].rpartition(". See ")
    assert see == str(hang)
    parts = {re.sub(r"py:\d+", "py", part) for part in told.split("; ")}  # and what others have left below this process
    waits = ["engine-0, eval: engine-0 are in all_reduce (distributed.py)"]
    waits += ["the rollout service is in _groups (test_stacks_here.py)"]
    waits += [f"process {below[0]} of the run is in judging (<string>:4)"] if readable else []
    assert parts >= {*waits}
    assert not any(str(below[1]) in part for part in parts)
    assert [path.read_text() for path in sorted(hang.glob("*engine-0.txt"))] == [SCHEDULER] * 2
    assert (hang / f"process-{below[0]}-of-the-run.txt").is_file() == readable
    assert not (hang / f"process-{below[1]}-of-the-run.txt").exists(), "servers are told of by who supervises them"
    tasks = (hang / "tasks-of-the-run.txt").read_text()
    of_call = tasks.partition("Task call of Service.next_batch ")[2].partition("\n\n")[0]
    assert re.findall(r"in (\w+)$", of_call, re.MULTILINE)[-3:] == ["_groups", "next_batch", "_as_sent"]
    threads = (hang / "threads-of-the-run.txt").read_text()
    assert doing(threads) is not None
    assert "in write_stacks" in threads

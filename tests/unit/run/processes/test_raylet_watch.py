"""Whether the process behind a socket lives: one that is stopped does, one that was killed does not."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rlscale.run.processes import actor_host
from rlscale.run.processes.actor_host import RayActors
from rlscale.run.processes.raylet_watch import RayletWatch
from rlscale.run.processes.remote_calls import Calls
from rlscale.run.processes.run_failed import RayDied
from rlscale.run.processes.stop_signal import StopSignal

LISTENS = (
    "import socket, sys, time; s = socket.socket(socket.AF_UNIX); s.bind(sys.argv[1]); s.listen(); "
    "print(flush=True); time.sleep(60)"
)


@pytest.fixture
def listening(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-I", "-S", "-c", LISTENS, str(tmp_path / "raylet")]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield process
        process.kill()


@pytest.fixture
def watch(listening: subprocess.Popen[bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RayletWatch:
    """What calls are told of Ray."""
    made = RayletWatch(str(tmp_path / "raylet"))
    monkeypatch.setattr(actor_host.ray, "is_initialized", lambda: True)
    monkeypatch.setattr(actor_host.ray_session, "watch_raylet", lambda: made)
    return made


def gone(watch: RayletWatch) -> bool:
    """Whether it is known to be dead soon."""
    until = time.monotonic() + 10
    while watch.lives and time.monotonic() < until:
        time.sleep(0.01)
    return not watch.lives


def test_a_killed_one_is_dead_at_once_and_a_stopped_one_lives(
    listening: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    watch = RayletWatch(str(tmp_path / "raylet"))
    os.kill(listening.pid, signal.SIGSTOP)
    assert watch.lives
    assert RayletWatch(str(tmp_path / "raylet")).lives
    listening.kill()
    assert gone(watch)
    assert gone(RayletWatch(str(tmp_path / "raylet")))
    with pytest.raises(RayDied, match=r"raylet\) has died.*the same command resumes a run"):
        watch.check()


def test_what_it_holds_open_it_lets_go(listening: subprocess.Popen[bytes], tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    watch = RayletWatch(str(tmp_path / "raylet"))
    RayletWatch(str(tmp_path / "raylet"))
    assert watch.lives
    del watch
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize("refused", [errno.ENOSYS, errno.EPERM, errno.EMFILE])
def test_where_nobody_may_watch_it_is_connected_to_each_time(
    listening: subprocess.Popen[bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: int
) -> None:
    def refusing(_: int) -> int:
        raise OSError(refused, "refused")

    monkeypatch.setattr(os, "pidfd_open", refusing)
    watch = RayletWatch(str(tmp_path / "raylet"))
    watch.check()
    listening.kill()
    assert gone(watch)


def test_a_call_whose_ray_is_dead_is_no_lost_process_and_nothing_is_sent_any_more(
    listening: subprocess.Popen[bytes], watch: RayletWatch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put: list[Any] = []
    monkeypatch.setattr(actor_host.ray, "put", put.append)
    host = RayActors()
    host.put("while it lives")
    monkeypatch.setattr(host, "wait", lambda refs, _: ([], refs))
    listening.kill()
    assert gone(watch)
    calls = Calls(StopSignal(), 60.0, str(tmp_path), 20.0, host)
    with pytest.raises(RayDied, match="raylet"):
        calls.wait(["never"], "training step")
    monkeypatch.setattr(host, "wait", lambda refs, _: pytest.fail("nothing is waited for any more"))
    for told in (lambda: calls.one("there", "training step"), lambda: host.put("afterwards"), lambda: host.get("it")):
        with pytest.raises(RayDied, match="raylet"):
            told()
    assert put == ["while it lives"]


def test_a_broken_connection_to_ray_is_its_death_only_where_it_has_died(
    listening: subprocess.Popen[bytes], watch: RayletWatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise BrokenPipeError

    monkeypatch.setattr(actor_host.ray, "wait", broken)
    with pytest.raises(BrokenPipeError):
        RayActors().wait(["large"], 0.1)
    listening.kill()
    assert gone(watch)
    with pytest.raises(RayDied):
        RayActors().wait(["large"], 0.1)

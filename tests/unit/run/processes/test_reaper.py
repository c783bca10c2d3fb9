"""The process that ends what a killed driver leaves behind, and says why Ray ended it."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from rlscale.run.processes import reaper

DRIVER = """
import os, sys
from pathlib import Path
from rlscale.run.processes.reaper_process import ReaperProcess
started, processes, raylet, done = eval(sys.argv[2])
process = ReaperProcess(Path(sys.argv[1]))
if started:
    process.started(processes, raylet)
if done:
    process.dismiss()
os._exit(0)
"""


@pytest.fixture
def left_behind() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    yield process
    process.kill()
    process.wait()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """That of a session."""
    (tmp_path / "session").mkdir()
    return tmp_path / "session"


def said(
    folder: Path,
    processes: list[int],
    raylet: int | None = None,
    *,
    started: bool = True,
    done: bool = False,
) -> str:
    """What a driver's reaper says of its end; returns once both have ended."""
    order = repr((started, processes, raylet, done))
    ran = subprocess.run([sys.executable, "-c", DRIVER, folder, order], capture_output=True, timeout=30, check=True)
    return ran.stderr.decode()


def test_a_driver_that_was_killed_leaves_neither_processes_nor_the_folder(
    folder: Path, left_behind: subprocess.Popen[bytes]
) -> None:
    assert said(folder, [left_behind.pid], left_behind.pid) == ""
    assert left_behind.wait(timeout=5) == -9
    assert not folder.exists()


def test_after_done_nothing_is_touched_or_said(folder: Path, left_behind: subprocess.Popen[bytes]) -> None:
    assert said(folder, [left_behind.pid], left_behind.pid, done=True) == ""
    assert said(folder, [], started=False, done=True) == ""
    assert left_behind.poll() is None
    assert folder.exists()


def test_a_driver_that_ends_while_ray_starts_says_so(folder: Path) -> None:
    assert said(folder, [], started=False) == f"error: {reaper.RAY_NOT_STARTED}\n"
    assert not folder.exists()


def test_of_a_driver_that_ended_with_its_raylet_the_line_is_said(tmp_path: Path) -> None:
    script = (
        "import os, subprocess, sys; from pathlib import Path\n"
        "from rlscale.run.processes.reaper_process import ReaperProcess\n"
        "raylet = subprocess.Popen(['sleep', '60'])\n"
        "ReaperProcess(None).started([], raylet.pid)\n"
        "raylet.kill()\n"
        "os.waitid(os.P_PID, raylet.pid, os.WEXITED | os.WNOWAIT)  # it stays a zombie\n"
        "os._exit(1)\n"
    )
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=30, check=False)
    assert (ran.returncode, ran.stderr) == (1, f"error: {reaper.RAY_DIED}\n")


def test_a_raylet_that_is_only_stopped_has_not_ended(folder: Path, left_behind: subprocess.Popen[bytes]) -> None:
    left_behind.send_signal(signal.SIGSTOP)
    assert said(folder, [], left_behind.pid) == ""


def test_a_process_that_took_over_the_number_is_spared(left_behind: subprocess.Popen[bytes]) -> None:
    began = reaper.start_time(left_behind.pid)
    assert began is not None
    assert reaper.lives(left_behind.pid, began)
    assert not reaper.lives(left_behind.pid, "1")
    order = f'{{"started": true, "raylet": null, "folder": null, "processes": [[{left_behind.pid}, "1"]]}}\n'
    subprocess.run([sys.executable, "-I", "-S", reaper.__file__], input=order.encode(), timeout=20, check=True)
    assert left_behind.poll() is None

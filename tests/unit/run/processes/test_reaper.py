"""The process that ends what a killed driver leaves behind, and says why Ray ended it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from rlscale.run.processes import reaper

DRIVER = """
import ctypes, os, signal, subprocess, sys, threading, time
from pathlib import Path
from rlscale.run.processes import reaper_process

reaper_process.GRACE_S = 0.1
folder, does = Path(sys.argv[1]), sys.argv[2]
process = reaper_process.ReaperProcess(folder)
if does != "starts":
    # Ray has its raylet end with its driver in this way, too.
    libc = ctypes.CDLL(None)
    raylet = subprocess.Popen(["sleep", "60"], preexec_fn=lambda: libc.prctl(1, signal.SIGKILL))
    for _ in range(10):
        threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
    process.started([raylet.pid, *map(int, sys.argv[3:])], raylet.pid)
if does == "is done":
    process.stopping()
    raylet.kill()
    process.dismiss()
elif does == "is killed":
    os.kill(os.getpid(), signal.SIGKILL)
elif does == "is stopped":
    raylet.send_signal(signal.SIGSTOP)
    time.sleep(0.3)
elif does == "stops Ray and is killed":
    process.stopping()
    raylet.kill()
    raylet.wait()
    os.kill(os.getpid(), signal.SIGKILL)
elif does == "loses Ray":
    raylet.kill()
    os.waitid(os.P_PID, raylet.pid, os.WEXITED | os.WNOWAIT)  # it stays a zombie
    time.sleep(0.3)
elif does == "loses Ray and says so":
    raylet.kill()
    time.sleep(0.3)
    process.stopping()
elif does == "leaves":
    process.leave(map(int, sys.argv[3:]))
os._exit(1)
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


def said(folder: Path, does: str, *processes: int) -> str:
    """What the reaper says of the end of a driver that does so; returns once both have ended."""
    command = [sys.executable, "-c", DRIVER, str(folder), does, *map(str, processes)]
    return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False).stderr


def test_a_driver_that_was_killed_leaves_neither_processes_nor_the_folder(
    folder: Path, left_behind: subprocess.Popen[bytes]
) -> None:
    assert said(folder, "is killed", left_behind.pid) == f"error: {reaper.ENDED}\n"
    assert left_behind.wait(timeout=5) == -9
    assert not folder.exists()


def test_after_done_nothing_is_touched_or_said(folder: Path, left_behind: subprocess.Popen[bytes]) -> None:
    assert said(folder, "is done", left_behind.pid) == ""
    assert left_behind.poll() is None
    assert folder.exists()


@pytest.mark.parametrize(
    ("does", "says"),
    [
        ("starts", reaper.RAY_NOT_STARTED),
        ("loses Ray", reaper.RAY_DIED),
        ("loses Ray and says so", None),
        ("stops Ray and is killed", None),
        ("is stopped", reaper.ENDED),
        ("exits", reaper.ENDED),
    ],
)
def test_what_is_known_of_the_drivers_end_is_said_unless_it_was_ending_ray(
    does: str, says: str | None, folder: Path
) -> None:
    assert said(folder, does) == ("" if says is None else f"error: {says}\n")
    assert not folder.exists()


def test_what_a_ray_that_did_not_start_has_left_is_ended_without_a_word(
    folder: Path, left_behind: subprocess.Popen[bytes]
) -> None:
    assert said(folder, "leaves", left_behind.pid) == ""
    assert left_behind.wait(timeout=5) == -9
    assert not folder.exists()


def test_a_process_that_took_over_the_number_is_spared(left_behind: subprocess.Popen[bytes]) -> None:
    order = f'{{"starts": false, "raylet": null, "folder": null, "processes": [[{left_behind.pid}, "1"]]}}\n'
    subprocess.run(
        [sys.executable, "-I", "-S", reaper.__file__, "1", "0.1"], input=order.encode(), timeout=20, check=True
    )
    assert left_behind.poll() is None

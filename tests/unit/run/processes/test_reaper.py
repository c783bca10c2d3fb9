"""The process that ends what a killed driver leaves behind."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from rlscale.run.processes import reaper


@pytest.fixture
def left_behind():
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    yield process
    process.kill()
    process.wait()


def tell(folder: Path, pid: int, began: str | None, last: str = "") -> int:
    order = json.dumps({"processes": {pid: began}, "folder": str(folder)}) + "\n" + last
    command = [sys.executable, "-I", "-S", reaper.__file__]
    return subprocess.run(command, input=order.encode(), timeout=20, check=False).returncode


def test_a_closed_pipe_ends_the_processes_and_removes_the_folder(tmp_path: Path, left_behind):
    (tmp_path / "session").mkdir()
    assert tell(tmp_path / "session", left_behind.pid, reaper.start_time(left_behind.pid)) == 0
    assert left_behind.wait(timeout=5) == -9
    assert not (tmp_path / "session").exists()


def test_after_done_nothing_is_touched(tmp_path: Path, left_behind):
    (tmp_path / "session").mkdir()
    assert tell(tmp_path / "session", left_behind.pid, reaper.start_time(left_behind.pid), '"done"\n') == 0
    assert left_behind.poll() is None
    assert (tmp_path / "session").exists()


def test_a_process_that_took_over_the_number_is_spared(tmp_path: Path, left_behind):
    tell(tmp_path / "none", left_behind.pid, "1")
    assert left_behind.poll() is None

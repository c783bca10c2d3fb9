"""The guard: whoever dies, nothing of the server lives on. Real processes, real kills."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from rlscale.serve.guard import KILL_DEADLINE_S
from rlscale.serve.process import GuardedProcess

FAMILY = """
import os, subprocess, sys, time
sleep = [sys.executable, "-c", "import time; time.sleep(300)"]
child = subprocess.Popen(sleep)
other_group = subprocess.Popen(sleep, start_new_session=True)
orphan = subprocess.run(["sh", "-c", "sleep 300 >/dev/null 2>&1 & echo $!"], stdout=subprocess.PIPE, text=True)
print("family", os.getpid(), child.pid, other_group.pid, orphan.stdout.strip(), flush=True)
time.sleep(300)
"""
"""A server with a child, one that left the process group, and one whose parent ended at once."""


@pytest.fixture
def family(tmp_path: Path) -> Iterator[tuple[GuardedProcess, list[int]]]:
    """A guarded process with three descendants, and the ids of all four."""
    process = GuardedProcess([sys.executable, "-c", FAMILY], dict(os.environ), "", tmp_path / "log", tmp_path)
    yield process, pids_in(tmp_path / "log")
    process.stop()


def pids_in(log: Path) -> list[int]:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        for line in log.read_text().split("\n")[:-1] if log.exists() else []:
            if line.startswith("family"):
                return [int(word) for word in line.split()[1:]]
        time.sleep(0.02)
    raise AssertionError(f"the family did not start: {log.read_text() if log.exists() else 'no log'}")


def alive(pids: list[int]) -> list[int]:
    def runs(pid: int) -> bool:
        try:
            return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False

    return [pid for pid in pids if runs(pid)]


def gone_within(pids: list[int], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if not alive(pids):
            return True
        time.sleep(0.02)
    return False


def test_stop_ends_every_descendant_and_removes_the_temporary_folder(
    family: tuple[GuardedProcess, list[int]], tmp_path: Path
) -> None:
    process, pids = family
    assert alive(pids) == pids
    assert process.exit_code() is None
    started = time.monotonic()
    process.stop()
    assert time.monotonic() - started < KILL_DEADLINE_S
    assert not alive([*pids, process.guard_pid])
    assert [path.name for path in tmp_path.iterdir()] == ["log"]


def test_killing_the_server_ends_its_descendants_and_is_noticed(family: tuple[GuardedProcess, list[int]]) -> None:
    process, pids = family
    assert process.pid == pids[0]
    os.kill(pids[0], signal.SIGKILL)
    assert gone_within(pids, KILL_DEADLINE_S)
    deadline = time.monotonic() + 5
    while process.exit_code() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    assert process.exit_code() == 128 + signal.SIGKILL


def test_killing_the_guard_ends_the_server(family: tuple[GuardedProcess, list[int]]) -> None:
    process, pids = family
    os.kill(process.guard_pid, signal.SIGKILL)
    # with the guard gone, the kernel's parent-death signal reaches the server, SGLang's own reaches its children
    assert gone_within(pids[:1], 5)
    deadline = time.monotonic() + 5
    while process.exit_code() is None and time.monotonic() < deadline:  # the kernel ends the server a moment earlier
        time.sleep(0.02)
    assert process.exit_code() == -signal.SIGKILL
    for pid in alive(pids):
        os.kill(pid, signal.SIGKILL)


def test_killing_the_supervisor_ends_the_server_with_every_descendant(tmp_path: Path) -> None:
    code = f"""
import os, sys, threading, time
from pathlib import Path
from rlscale.serve.process import GuardedProcess
def start():
    global process
    process = GuardedProcess([sys.executable, "-c", {FAMILY!r}], dict(os.environ), "", Path("log"), Path("."))
thread = threading.Thread(target=start); thread.start(); thread.join()
if os.fork() == 0:  # a sibling that holds the other end of the guard's pipe
    time.sleep(300)
time.sleep(300)
"""
    supervisor = subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path, env={**os.environ, "PYTHONPATH": root()})
    try:
        pids = pids_in(tmp_path / "log")
        siblings = [child.pid for child in psutil.Process(supervisor.pid).children()]
        time.sleep(1.5)
        assert alive(pids) == pids, "the thread that started it is long gone; that must not matter"
        supervisor.kill()
        supervisor.wait()
        assert gone_within(pids, 5)
        deadline = time.monotonic() + 10
        while [path.name for path in tmp_path.iterdir()] != ["log"]:
            assert time.monotonic() < deadline, "the guard leaves its temporary folder behind"
            time.sleep(0.05)
    finally:
        supervisor.kill()
        for pid in alive([*siblings, *pids]):
            os.kill(pid, signal.SIGKILL)


def root() -> str:
    import rlscale

    return str(Path(rlscale.__file__).parent.parent)


def test_input_reaches_the_program_and_only_there(tmp_path: Path) -> None:
    code = "import sys, time; print(len(sys.stdin.read()), flush=True); time.sleep(300)"
    secret = "key-" + "x" * 300_000
    process = GuardedProcess([sys.executable, "-c", code], dict(os.environ), secret, tmp_path / "log", tmp_path)
    try:
        deadline = time.monotonic() + 10
        while not process.log_tail() and time.monotonic() < deadline:
            time.sleep(0.02)
        assert process.log_tail() == str(len(secret))
        for pid in (process.pid, process.guard_pid):
            assert pid is not None
            seen = Path(f"/proc/{pid}/cmdline").read_bytes() + Path(f"/proc/{pid}/environ").read_bytes()
            assert b"key-" not in seen
    finally:
        process.stop()


def test_a_socket_can_be_made_in_the_temporary_folder_however_long_its_path_is(tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 100) / ("e" * 100)
    code = """
import os, socket, tempfile
name = os.path.join(tempfile.gettempdir(), "a_name_of_thirty_characters.sock")
socket.socket(socket.AF_UNIX).bind(name)
print(len(name) <= 107, os.path.realpath(tempfile.gettempdir()))
"""
    process = GuardedProcess([sys.executable, "-c", code], dict(os.environ), "", tmp_path / "log", deep)
    deadline = time.monotonic() + 10
    while process.exit_code() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    short, folder = process.log_tail().split()
    assert short == "True"
    assert folder.startswith(str(deep))
    process.stop()
    assert list(deep.iterdir()) == []


def test_the_log_tail_is_of_this_start_only(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("from an earlier start\n")
    code = "for i in range(30): print(f'line {i}\\n')"
    process = GuardedProcess([sys.executable, "-c", code], dict(os.environ), "", log, tmp_path)
    while process.exit_code() is None:
        time.sleep(0.02)
    process.stop()
    assert process.exit_code() == 0
    assert process.log_tail(3).splitlines() == ["line 27", "line 28", "line 29"]
    assert "earlier" not in process.log_tail(100)
    assert log.read_text().startswith("from an earlier start")


def test_why_a_program_ended_is_the_last_exception_that_it_wrote(tmp_path: Path) -> None:
    """SGLang writes what its scheduler raised, more lines after it, and kills itself."""
    program = (
        "import traceback, os, signal\n"
        "for error in (ValueError('the first'), MemoryError('no room for 12 GB')):\n"
        "    try:\n        raise error\n    except Exception:\n        traceback.print_exc()\n"
        "print('Received sigquit from a child process', flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    process = GuardedProcess([sys.executable, "-c", program], dict(os.environ), "", tmp_path / "log", tmp_path)
    deadline = time.monotonic() + 20
    while process.exit_code() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    process.stop()
    assert process.last_exception() == "MemoryError: no room for 12 GB"


def test_a_program_that_wrote_no_exception_has_none(tmp_path: Path) -> None:
    process = GuardedProcess([sys.executable, "-c", "print('x: y')"], dict(os.environ), "", tmp_path / "log", tmp_path)
    process.stop()
    assert process.last_exception() is None


def test_a_log_that_is_a_link_is_not_written(tmp_path: Path) -> None:
    (tmp_path / "log").symlink_to(tmp_path / "bashrc")
    process = GuardedProcess([sys.executable, "-c", "print(1)"], dict(os.environ), "", tmp_path / "log", tmp_path)
    process.stop()
    assert not (tmp_path / "bashrc").exists()

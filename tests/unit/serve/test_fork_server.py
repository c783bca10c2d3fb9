"""The fork server: each fork has its own log, environment and session, and nothing of it outlives its supervisor.

Real processes and real kills, with a program that is imported in no time; tests/e2e/serve forks engines.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

import rlscale
from rlscale.serve import fork_server
from rlscale.serve.fork_server import ForkedProcess, ForkServer, NotForkedError

PROGRAM = """
import json, os, subprocess, sys, threading, time

def prepare():
    global prepared_by
    prepared_by = os.getpid()
    time.sleep(float(os.environ.get("PREPARES_FOR", "0")))
    if os.environ.get("LEAVES_A_THREAD"):
        threading.Thread(target=time.sleep, args=(300,), daemon=True).start()

def serve(order):
    if "raises" in order:
        raise ValueError(order["raises"])
    if "exits" in order:
        sys.exit(order["exits"])
    sleep = [sys.executable, "-c", "import time; time.sleep(300)"]
    child, other = subprocess.Popen(sleep), subprocess.Popen(sleep, start_new_session=True)
    seen = {"prepared_by": prepared_by, "pids": [os.getpid(), child.pid, other.pid], "session": os.getsid(0),
            "own": os.environ.get("OWN"), "tmpdir": os.path.realpath(os.environ["TMPDIR"]), "folder": os.getcwd(),
            "left": os.environ.get("PREPARES_FOR"), "input": sys.stdin.read(), "order": order}
    print(json.dumps(seen), flush=True)
    time.sleep(300)
"""


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    (tmp_path / "forked_program.py").write_text(PROGRAM)
    root = str(Path(rlscale.__file__).parent.parent)
    return {**os.environ, "PYTHONPATH": os.pathsep.join([root, str(tmp_path)])}


@pytest.fixture
def server(tmp_path: Path, environment: dict[str, str]) -> Iterator[ForkServer]:
    server = ForkServer("forked_program", environment, {}, tmp_path / "owner")
    yield server
    server.stop()


def fork(server: ForkServer, folder: Path, name: str = "one", order: Any = None, **own: Any) -> ForkedProcess:
    log, environment = folder / f"{name}.log", {"OWN": name, "PATH": os.environ["PATH"]}
    return ForkedProcess(
        server.address, name, order or {}, environment, own.pop("imported_with", {}), log, folder / "tmp", 20.0
    )


def seen_by(process: ForkedProcess) -> dict[str, Any]:
    """What the program saw, once it has written it."""
    wait_for(process.log_tail)
    seen: dict[str, Any] = json.loads(process.log_tail())
    return seen


def wait_for(condition: Any, seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def alive(pids: list[int]) -> list[int]:
    def runs(pid: int) -> bool:
        try:
            return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False

    return [pid for pid in pids if runs(pid)]


def test_forks_share_the_preparation_and_nothing_else(server: ForkServer, tmp_path: Path) -> None:
    first, second = (fork(server, tmp_path, name, {"secret": name}) for name in ("one", "two"))
    try:
        for name, process in (("one", first), ("two", second)):
            seen = seen_by(process)
            assert seen["prepared_by"] == server.pid
            assert seen["pids"][0] == seen["session"] == process.pid
            assert (seen["own"], seen["order"], seen["input"]) == (name, {"secret": name}, "")
            assert seen["folder"] == os.getcwd()
            assert seen["tmpdir"].startswith(str(tmp_path / "tmp"))
            assert process.log == tmp_path / f"{name}.log"
            assert process.exit_code() is None
            shown = psutil.Process(process.pid).cmdline() + psutil.Process(process.guard_pid).cmdline()
            assert [name in text for text in shown if text] == [True, True]
            assert not any("secret" in text for text in shown)
        assert len({first.pid, second.pid, first.guard_pid, second.guard_pid, server.pid}) == 5
    finally:
        for process in (first, second):
            process.stop()


def test_stop_ends_every_descendant_and_removes_the_temporary_folder(server: ForkServer, tmp_path: Path) -> None:
    process = fork(server, tmp_path)
    pids = seen_by(process)["pids"]
    assert alive(pids) == pids
    process.stop()
    assert alive(pids) == []
    assert process.exit_code() == 0
    assert list((tmp_path / "tmp").iterdir()) == []
    wait_for(lambda: not alive([process.guard_pid]))
    process.stop()
    assert server.ended() is None


def test_a_killed_server_is_seen_dead_and_its_descendants_end(server: ForkServer, tmp_path: Path) -> None:
    process = fork(server, tmp_path)
    pids = seen_by(process)["pids"]
    os.kill(pids[0], signal.SIGKILL)
    wait_for(lambda: process.exit_code() is not None)
    assert process.exit_code() == 128 + signal.SIGKILL
    assert alive(pids) == []
    process.stop()


def test_a_server_whose_guard_is_killed_ends_and_is_seen_dead(server: ForkServer, tmp_path: Path) -> None:
    process = fork(server, tmp_path)
    pids = seen_by(process)["pids"]
    os.kill(process.guard_pid, signal.SIGKILL)
    wait_for(lambda: not alive(pids[:1]))
    wait_for(lambda: process.exit_code() is not None)
    assert process.exit_code() == -signal.SIGKILL
    process.stop()
    for pid in alive(pids):  # SGLang's own processes end with their parent; these do not
        os.kill(pid, signal.SIGKILL)


def test_the_end_of_the_fork_server_ends_no_server(
    server: ForkServer, tmp_path: Path, environment: dict[str, str]
) -> None:
    process = fork(server, tmp_path)
    pids = seen_by(process)["pids"]
    assert server.pid is not None
    os.kill(server.pid, signal.SIGKILL)
    wait_for(server.ended)
    with pytest.raises(NotForkedError, match="does not answer"):
        fork(server, tmp_path, "two")
    time.sleep(1.2)  # the guard looks around once a second
    assert alive(pids) == pids
    assert process.exit_code() is None
    os.kill(pids[0], signal.SIGKILL)
    wait_for(lambda: process.exit_code() == 128 + signal.SIGKILL)
    assert alive(pids) == []
    process.stop()


SUPERVISOR = """
import os, sys, time
from pathlib import Path
from rlscale.serve.fork_server import ForkedProcess, ForkServer
here = Path.cwd()
own = ForkServer("forked_program", dict(os.environ), {}, here / "owner") if sys.argv[1] == "own" else None
process = ForkedProcess(own.address if own else sys.argv[1], "one", {}, {}, {}, here / "one.log", here / "tmp", 20.0)
if os.fork() == 0:  # a sibling that holds the other end of the connection
    time.sleep(300)
time.sleep(300)
"""


@pytest.mark.parametrize("owner", ["itself", "another"])
def test_killing_the_supervisor_ends_the_server_whoever_owns_the_fork_server(
    server: ForkServer, tmp_path: Path, environment: dict[str, str], owner: str
) -> None:
    command = [sys.executable, "-c", SUPERVISOR, "own" if owner == "itself" else server.address]
    supervisor = subprocess.Popen(command, cwd=tmp_path, env=environment)
    siblings: list[int] = []
    try:
        wait_for(lambda: (tmp_path / "one.log").exists() and (tmp_path / "one.log").read_text())
        pids = json.loads((tmp_path / "one.log").read_text())["pids"]
        below = psutil.Process(supervisor.pid).children(recursive=True)
        siblings = [child.pid for child in below if child.cmdline()[1:2] == ["-c"]]
        forking = [child.pid for child in below if child.pid not in [*siblings, *pids]]
        assert siblings
        assert bool(forking) is (owner == "itself")
        supervisor.kill()
        supervisor.wait()
        wait_for(lambda: not alive(pids), 5)
        wait_for(lambda: not alive(forking), 5)
        wait_for(lambda: list((tmp_path / "tmp").iterdir()) == [])
        assert server.ended() is None
    finally:
        supervisor.kill()
        for pid in alive(siblings):
            os.kill(pid, signal.SIGKILL)


def test_why_a_server_ended_is_in_its_log_and_exit_code(server: ForkServer, tmp_path: Path) -> None:
    raising, leaving = fork(server, tmp_path, "one", {"raises": "no"}), fork(server, tmp_path, "two", {"exits": 7})
    for process, code in ((raising, 1), (leaving, 7)):
        wait_for(lambda process=process: process.exit_code() is not None)
        assert process.exit_code() == code
        process.stop()
    assert raising.last_exception() == "ValueError: no"


def test_a_server_that_needs_other_variables_at_import_is_refused(tmp_path: Path, environment: dict[str, str]) -> None:
    server = ForkServer("forked_program", environment, {"SAME": "1", "MINE": "1"}, tmp_path / "owner")
    try:
        with pytest.raises(NotForkedError, match=r"^MINE, YOURS had other values when"):
            fork(server, tmp_path, imported_with={"SAME": "1", "YOURS": "1"})
        fork(server, tmp_path, imported_with={"SAME": "1", "MINE": "1"}).stop()
        assert list((tmp_path / "tmp").iterdir()) == []
    finally:
        server.stop()


def test_a_fork_server_with_threads_refuses(tmp_path: Path, environment: dict[str, str]) -> None:
    server = ForkServer("forked_program", {**environment, "LEAVES_A_THREAD": "1"}, {}, tmp_path / "owner")
    try:
        with pytest.raises(NotForkedError, match="the fork server has 2 threads"):
            fork(server, tmp_path)
    finally:
        server.stop()


def test_a_refusal_is_heard_from_a_server_that_closes_before_it_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = socket.socketpair()
    there.sendall(b'{"refused": "the fork server has 2 threads"}\n')
    there.close()
    monkeypatch.setattr(fork_server, "connected_socket", lambda *_: here)
    with pytest.raises(NotForkedError, match="the fork server has 2 threads"):
        ForkedProcess("nowhere", "one", {}, {}, {}, tmp_path / "one.log", tmp_path / "tmp", 20.0)


def test_who_asks_during_the_imports_waits_and_is_told_when_they_fail(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    slow = ForkServer("forked_program", {**environment, "PREPARES_FOR": "0.5"}, {}, tmp_path / "owner")
    broken = ForkServer("forked_program", {**environment, "PREPARES_FOR": "nonsense"}, {}, tmp_path / "owner")
    try:
        process = fork(slow, tmp_path)
        assert seen_by(process)["left"] is None
        process.stop()
        with pytest.raises(NotForkedError):
            fork(broken, tmp_path, "two")
        wait_for(broken.ended)
        assert broken.ended() == "ValueError: could not convert string to float: 'nonsense'"
    finally:
        slow.stop()
        broken.stop()
    assert list((tmp_path / "owner").iterdir()) == []


def test_a_folder_with_a_long_path_is_reached(tmp_path: Path, environment: dict[str, str]) -> None:
    deep = tmp_path / ("d" * 100) / ("e" * 100)
    server = ForkServer("forked_program", environment, {}, deep)
    try:
        process = fork(server, deep)
        assert seen_by(process)["tmpdir"].startswith(str(deep / "tmp"))
        process.stop()
    finally:
        server.stop()

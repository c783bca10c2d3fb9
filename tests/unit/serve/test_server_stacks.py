"""The processes of servers by their names, where no process may be read from outside: each is asked."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rlscale.platform.stacks import doing
from rlscale.serve import server_stacks
from rlscale.serve.pulse import stopped_of
from rlscale.serve.server_stacks import stacks_of_servers

SERVER = """
import os, sys
from rlscale.platform.stacks import tell_stacks
tell_stacks()
def working():
    os.write(1, f"{os.getpid()}\\n".encode())
    sys.stdin.read()
for _ in range(int(sys.argv[1])):
    if os.fork() == 0:
        working()
        os._exit(0)
working()
"""
PYTHON = Path(sys.executable).name


def pids_in(log: Path) -> list[int]:
    return sorted(int(line) for line in log.read_text().split("\n")[:-1] if line.isdigit())


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[dict[str, Any]]:
    """An engine with three processes below its own, which call themselves by the path of their program; a router."""
    with ExitStack() as stack:
        made = {}
        for name, below in (("engine-0", 3), ("router", 0)):
            log = tmp_path / name
            # Appended, and by one write each (`print` makes two where PYTHONUNBUFFERED is set): lines stay whole.
            with log.open("a") as file:
                command = [sys.executable, "-c", SERVER, str(below)]
                process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=file, stderr=file)
            assert process.stdin is not None
            stack.callback(process.wait, 20)
            stack.callback(process.stdin.close)  # which ends them all
            made[name] = SimpleNamespace(pid=process.pid, log=log, below=below)
        deadline = time.monotonic() + 30
        while any(len(pids_in(one.log)) <= one.below for one in made.values()) and time.monotonic() < deadline:
            time.sleep(0.02)
        yield made


def test_each_process_is_asked_and_named_but_not_one_that_is_stopped(
    servers: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_stacks, "spied_families", lambda pids: {pid: {} for pid in pids})
    engine = servers["engine-0"]
    _, second, stopped = (pid for pid in pids_in(engine.log) if pid != engine.pid)
    os.kill(stopped, signal.SIGSTOP)
    while not stopped_of([stopped]):
        time.sleep(0.01)
    try:
        told = stacks_of_servers(servers)
    finally:
        os.kill(stopped, signal.SIGCONT)
    known = ("engine-0", f"engine-0 {PYTHON}", f"engine-0 {PYTHON} {second}", "router")
    assert {name: doing(text) for name, text in told.items()} == dict.fromkeys(known, "working (<string>:7)")
    time.sleep(0.2)
    assert engine.log.read_text().count("Current thread") == 3, "one that goes on again has nothing to say"
    monkeypatch.setattr(server_stacks, "_ASKED_S", -1.0)
    assert stacks_of_servers(servers) == {}, "the time is over"

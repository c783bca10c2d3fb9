"""The stand-in for Ray's interpreter: it runs a script as python would, forked or not, and ends with it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

import rlscale
from rlscale.serve import forked_python
from rlscale.serve.fork_server import ForkServer

ROOT = str(Path(rlscale.__file__).parent.parent)
PROGRAM = """
import os, runpy, sys

def prepare():
    sys.imported_once = os.getpid()

def serve(order):
    sys.argv[:] = order["script"]
    runpy.run_path(sys.argv[0], run_name="__main__")
"""
SCRIPT = """
import json, os, signal, sys, time
seen = {"pid": os.getpid(), "argv": sys.argv[1:], "once": getattr(sys, "imported_once", None),
        "own": os.environ.get("OWN"), "folder": os.getcwd(), "why": os.environ.get("RLSCALE_NOT_FORKED")}
sys.stderr.write(json.dumps(seen) + "\\n")
sys.stderr.flush()
if sys.argv[1] == "wait":
    time.sleep(300)
if sys.argv[1] == "until told":
    try:
        signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(130))
        signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where a shell put these tests behind
        print("ready", flush=True)
        time.sleep(300)
    finally:
        time.sleep(1.5)  # ends in order, also when whoever waits for it looks around and misses its parent
        open("ended", "w").close()
sys.exit(int(sys.argv[1]))
"""


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    (tmp_path / "small_program.py").write_text(PROGRAM)
    (tmp_path / "script.py").write_text(SCRIPT)
    return {**os.environ, "PYTHONPATH": os.pathsep.join([ROOT, str(tmp_path)]), "OWN": "mine"}


@pytest.fixture
def server(tmp_path: Path, environment: dict[str, str]) -> Iterator[ForkServer]:
    shared = forked_python.read_at_import(environment, ROOT)
    server = ForkServer("small_program", environment, shared, tmp_path / "owner")
    yield server
    server.stop()


def start(server: ForkServer, folder: Path, environment: dict[str, str], *arguments: str, root: str = ROOT) -> Any:
    stand_in = [sys.executable, "-I", "-S", forked_python.__file__, server.address, root, str(folder)]
    command = [*stand_in, str(folder / "script.py"), *arguments]
    return subprocess.Popen(command, cwd=folder, env=environment, stderr=subprocess.PIPE, text=True)


def seen_by(process: Any) -> dict[str, Any]:
    seen: dict[str, Any] = json.loads(process.stderr.readline())
    return seen


def test_a_script_is_forked_with_its_arguments_and_its_exit_code_comes_back(server, tmp_path, environment) -> None:
    process = start(server, tmp_path, environment, "7", "two words")
    seen = seen_by(process)
    assert process.wait(timeout=10) == 7
    assert seen["argv"] == ["7", "two words"]
    assert (seen["once"], seen["own"], seen["why"]) == (server.pid, "mine", None)
    assert seen["folder"] == str(tmp_path)
    assert seen["pid"] != process.pid
    assert not list(tmp_path.glob("t*/")), "its temporary folder stayed"


@pytest.mark.parametrize(
    ("changed", "root", "why"),
    [
        ({"OMP_NUM_THREADS": "7"}, ROOT, "OMP_NUM_THREADS had other values"),
        ({}, "/another/clone", "the folder of rlscale had other values"),
    ],
)
def test_what_the_fork_server_refuses_runs_in_an_interpreter_of_its_own(
    server, tmp_path, environment, changed, root, why
) -> None:
    process = start(server, tmp_path, {**environment, **changed}, "3", root=root)
    seen = seen_by(process)
    assert process.wait(timeout=10) == 3
    assert (seen["once"], seen["pid"]) == (None, process.pid)
    assert why in seen["why"]


def test_a_fork_server_that_is_gone_costs_nothing_but_time(server, tmp_path, environment) -> None:
    assert start(server, tmp_path, environment, "0").wait(timeout=20) == 0  # by now it listens
    server.stop()
    process = start(server, tmp_path, environment, "4")
    seen = seen_by(process)
    assert process.wait(timeout=10) == 4
    assert "does not answer" in seen["why"]


def test_the_end_of_either_is_the_end_of_the_other(server, tmp_path, environment) -> None:
    process = start(server, tmp_path, environment, "wait")
    forked = psutil.Process(seen_by(process)["pid"])
    process.send_signal(signal.SIGKILL)
    process.wait(timeout=10)
    gone(forked)

    process = start(server, tmp_path, environment, "wait")
    psutil.Process(seen_by(process)["pid"]).kill()
    assert process.wait(timeout=10) == 128 + signal.SIGKILL


def asking_to_pass_signals(server: ForkServer, folder: Path) -> list[str]:
    start = [sys.executable, "-I", "-S", forked_python.__file__, forked_python.PASS_SIGNALS]
    return [*start, server.address, ROOT, str(folder), str(folder / "script.py"), "until told"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_command_is_told_of_a_signal_and_ends_in_order(server, tmp_path, environment, number) -> None:
    command = asking_to_pass_signals(server, tmp_path)
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = subprocess.Popen(command, cwd=tmp_path, env=environment, text=True, **pipes)
    assert seen_by(process)["once"] == server.pid
    assert process.stdout.readline() == "ready\n"  # apart from the errors
    process.send_signal(number)
    assert process.wait(timeout=10) == (130 if number == signal.SIGTERM else 1)
    assert (tmp_path / "ended").exists()


def test_a_command_that_was_told_ends_in_order_though_its_parent_is_gone(server, tmp_path, environment) -> None:
    command = asking_to_pass_signals(server, tmp_path)
    code = f"import subprocess; print(subprocess.Popen({command!r}).pid, flush=True); input()"
    parent = subprocess.Popen(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    stand_in = psutil.Process(int(parent.stdout.readline()))
    assert parent.stdout.readline() == "ready\n"
    stand_in.send_signal(signal.SIGTERM)
    parent.kill()
    parent.wait()
    gone(stand_in)
    assert (tmp_path / "ended").exists()


def gone(process: psutil.Process) -> None:
    deadline = time.monotonic() + 10
    while process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline
        time.sleep(0.05)

"""The ways in which an engine comes to be; all other tests fork theirs from the session's fork server."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import psutil
from shared_server import SharedServer

from rlscale.config.schema.cluster_config import Device
from rlscale.platform.ports import free_port
from rlscale.serve.engine_process import EngineProcesses
from rlscale.serve.http import CallError, call
from rlscale.serve.server_spec import ServerSpec, server_environment
from rlscale.serve.supervisor import Supervisor

BODY = {"input_ids": [5, 9, 3], "sampling_params": {"max_new_tokens": 8, "sampling_seed": 1}}


def test_a_supervisor_whose_fork_server_ended_has_one_of_its_own_and_ends_it(
    shared_server: SharedServer, tmp_path: Path
) -> None:
    """An engine comes up, is killed and comes back, with two threads, although nobody answers at the address given."""
    ended = str(tmp_path / "ended" / "socket")
    supervisor = Supervisor(tmp_path / "logs", tmp_path / "scratch", "key", fork_server=ended)
    spec = ServerSpec("engine-0", str(shared_server.model_folder), Device.cpu, threads=2)
    try:
        url = supervisor.start_engine(spec)
        tokens = tokens_at(url, "key")
        first = supervisor._entries["engine-0"].process
        assert first is not None
        assert first.pid is not None
        forking = psutil.Process(first.guard_pid).parent()
        assert forking is not None
        assert forking.name().startswith("rlscale fork")
        os.kill(first.pid, signal.SIGKILL)
        wait_for(lambda: supervisor.dead() == ["engine-0"], 5)
        assert supervisor.restart("engine-0") == url
        second = supervisor._entries["engine-0"].process
        assert second is not None
        assert psutil.Process(second.guard_pid).parent() == forking
        assert tokens_at(url, "key") == tokens
    finally:
        supervisor.stop()
    wait_for(lambda: not forking.is_running(), 5)
    assert list((tmp_path / "scratch" / "tmp").iterdir()) == []


def test_an_engine_that_imports_everything_itself_gives_the_same_tokens(
    shared_server: SharedServer, fork_server: str, tmp_path: Path
) -> None:
    """As engines on GPUs do."""
    spec = ServerSpec("engine-0", str(shared_server.model_folder), Device.cpu)
    environment, port = server_environment(spec, tmp_path), free_port("127.0.0.1")
    url = f"http://127.0.0.1:{port}"
    process = EngineProcesses(tmp_path / "tmp", "key", None).anew(spec, port, environment, tmp_path / "anew.log")
    try:
        wait_for(lambda: answers(url), 120)
        alone = tokens_at(url, "key")
    finally:
        process.stop()
    supervisor = Supervisor(tmp_path / "logs", tmp_path, "key", fork_server=fork_server)
    try:
        assert tokens_at(supervisor.start_engine(spec), "key") == alone
    finally:
        supervisor.stop()


def answers(url: str) -> bool:
    try:
        call(url, "/health", None, timeout=2)
    except CallError:
        return False
    return True


def tokens_at(url: str, key: str) -> list[int]:
    tokens: list[int] = call(url, "/generate", key, BODY, timeout=60)["output_ids"]
    return tokens


def wait_for(condition: Any, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)

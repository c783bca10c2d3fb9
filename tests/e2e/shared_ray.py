"""A Ray that runs already, as on a cluster: the session's runs join it instead of starting and ending one each."""

from __future__ import annotations

import os
import secrets
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from rlscale.platform.ports import free_port
from rlscale.serve.process import GuardedProcess

HOST = "127.0.0.1"
START = (
    *("start", "--head", "--block", f"--node-ip-address={HOST}", "--num-cpus=0", "--disable-usage-stats"),
    *("--include-dashboard=false", "--include-log-monitor=false", f"--object-store-memory={1 << 30}"),
)
"""Of a Ray on this machine for this machine; actors of runs ask for no cores."""
PORTS = ("--port", "--ray-client-server-port", "--dashboard-agent-listen-port")
"""Those that are the same for every Ray unless others are given: sessions run side by side."""
STARTED = "Ray runtime started."
LIMIT_S = 60.0
JOINS = "cluster.ray_address="
JOINING: dict[str, str] = {}
"""Environment of a command that joins it. Commands with a Ray of their own do not have it: they must set their own."""


@pytest.fixture(scope="session")
def shared_ray(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The override by which a run joins it."""
    scratch = tmp_path_factory.mktemp("ray")
    token = scratch / "token"
    token.touch(mode=0o600)
    token.write_text(secrets.token_hex(32))
    JOINING.update(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN_PATH=str(token))
    folder = os.open(scratch, os.O_RDONLY)  # by which its name is short enough for the sockets in it
    try:
        try:
            process, port = _started(scratch, folder)
        except AssertionError:  # somebody else may have taken a port since it was free
            process, port = _started(scratch, folder)
        try:
            yield f"{JOINS}{HOST}:{port}"
        finally:
            process.stop()
    finally:
        os.close(folder)


def _started(scratch: Path, folder: int) -> tuple[GuardedProcess, int]:
    """It and its port, once it is up. AssertionError with what it said if it does not start."""
    ports = [free_port(HOST) for _ in PORTS]
    place = [f"--temp-dir=/proc/{os.getpid()}/fd/{folder}/r", *map("{}={}".format, PORTS, ports)]
    command = [str(Path(sys.executable).with_name("ray")), *START, *place]
    environment = {**os.environ, **JOINING, "RAY_worker_niceness": "0"}  # as in a Ray that a run starts
    process = GuardedProcess(command, environment, "", scratch / "ray.log", scratch)
    try:
        deadline = time.monotonic() + LIMIT_S
        while STARTED not in process.log_tail(100):
            assert process.exit_code() is None, process.log_tail(100)
            assert time.monotonic() < deadline, process.log_tail(100)
            time.sleep(0.1)
    except BaseException:
        process.stop()
        raise
    return process, ports[0]

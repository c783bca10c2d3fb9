"""Stands in for the interpreter that Ray starts its workers with: a fork server forks the worker instead.

Run as a file by a bare interpreter (`python -I -S forked_python.py <address> <root> <scratch> <script> ...`), so it
imports nothing but the standard library and is there in 20 ms. The worker runs below a guard, like every forked process
(`fork_server_main`), and lives no longer than this process, which ends with its exit code. Where the fork server is
gone or refuses, this process becomes the interpreter that it stands in for.

With `--pass-signals` first it passes SIGTERM, SIGINT and SIGUSR1 on and waits: what it stands in for wants to end in
order. A worker is killed instead.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import signal
import socket
import stat
import sys
import tempfile
import time
from collections.abc import Mapping

READ_AT_IMPORT = (
    "GLIBC_",
    "MALLOC_",
    "LD_",
    "OMP_",
    "MKL_",
    "KMP_",
    "PYTHON",
    "TORCH",
    "PYTORCH_",
    "TRANSFORMERS_",
    "HF_",
)
"""Beginnings of the names of variables that are read when a process starts, or imports torch or transformers."""

READ_LATER = ("TORCHINDUCTOR_CACHE_DIR", "HF_HOME", "PYTHONUNBUFFERED")
"""Those of them whose value makes no difference there."""

NOT_FORKED = "RLSCALE_NOT_FORKED"
"""Variable of a worker that could not be forked: why."""

_SOCKET_S = 10.0
"""How long a fork server that was just started may take until it has its socket."""
_POLL_S = 1.0

PASS_SIGNALS = "--pass-signals"


def read_at_import(environment: Mapping[str, str], root: str) -> dict[str, str]:
    """What a worker must share with its fork server: variables, and the folder that holds the package rlscale."""
    variables = {
        name: value for name, value in environment.items() if name.startswith(READ_AT_IMPORT) and name not in READ_LATER
    }
    return {**variables, "the folder of rlscale": root}


def main(address: str, root: str, scratch: str, script: list[str], *, pass_signals: bool = False) -> int:
    """Exit code of the worker. Does not return where none was forked."""
    os.environ.pop(NOT_FORKED, None)  # of a process above this one
    parent = os.getppid()
    temporary = tempfile.mkdtemp(prefix="t", dir=scratch)
    asked = {
        "order": {"script": script},
        "name": "command" if pass_signals else "Ray worker",
        "log": _reopened(2),
        "output": _reopened(1),
        "folder": os.getcwd(),
        "temporary": temporary,
        "environment": dict(os.environ),
        "imported_with": read_at_import(os.environ, root),
    }
    try:
        connection = connected_socket(address)
        with contextlib.suppress(BrokenPipeError):  # one that refuses says why, and does not wait for what is asked
            connection.sendall(json.dumps(asked).encode() + b"\n")
        answers = connection.makefile("rb")
        answer = json.loads(answers.readline() or b"{}")
    except OSError as error:
        answer = {"refused": f"the fork server does not answer ({error})"}
    if "server" not in answer:
        shutil.rmtree(temporary, ignore_errors=True)
        # The worker says it in its log: what this process prints goes to a file of Ray's that nobody keeps.
        os.environ[NOT_FORKED] = answer.get("refused", "the fork server ended")
        os.execv(sys.executable, [sys.executable, *script])
    passed: list[int] = []
    if pass_signals:

        def pass_on(number: int, frame: object) -> None:
            if number != signal.SIGUSR1:  # which asks for a checkpoint, not for the end
                passed.append(number)
            with contextlib.suppress(ProcessLookupError):
                os.kill(answer["server"], number)

        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
            signal.signal(number, pass_on)
    while not select.select([connection], [], [], _POLL_S)[0]:
        # Without the parent (Ray, for a worker) the end of the connection ends what was forked, unless it was told to
        # end by itself.
        if os.getppid() != parent and not passed:
            return 1
    ended = answers.readline()
    return int(json.loads(ended)["status"]) if ended else 1


def connected_socket(address: str, timeout_s: float | None = None) -> socket.socket:
    """A connection to the fork server at `address`, whose answers may take `timeout_s`. OSError without one.

    A fork server makes its socket a moment after its start: that is waited for.
    """
    deadline = time.monotonic() + min(timeout_s or _SOCKET_S, _SOCKET_S)
    while True:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.settimeout(timeout_s)
        try:
            connection.connect(address)
            return connection
        except OSError as error:
            connection.close()
            starting = isinstance(error, FileNotFoundError) and os.path.isdir(os.path.dirname(address))
            if not starting or time.monotonic() > deadline:
                raise
        time.sleep(0.02)


def _reopened(descriptor: int) -> str:
    """A path by which the worker can open what this process prints to."""
    mode = os.fstat(descriptor).st_mode
    reopens = stat.S_ISREG(mode) or stat.S_ISCHR(mode) or stat.S_ISFIFO(mode)
    return f"/proc/{os.getpid()}/fd/{descriptor}" if reopens else os.devnull


if __name__ == "__main__":
    given = sys.argv[1:]
    passing = given[0] == PASS_SIGNALS
    address, root, scratch, *script = given[passing:]
    sys.exit(main(address, root, scratch, script, pass_signals=passing))

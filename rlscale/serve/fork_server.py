"""A fork server as its owner sees it, and the servers that others have it fork."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rlscale.serve.fork_server_main import SOCKET
from rlscale.serve.forked_python import connected_socket
from rlscale.serve.process import GuardedProcess, ServerProcess


class NotForkedError(Exception):
    """The fork server did not fork: it is gone, or refused; the message says which."""


def fork_server_command() -> list[str]:
    """Its command line; what it imports reaches it on standard input."""
    return [sys.executable, "-m", "rlscale.serve.fork_server_main"]


class ForkServer:
    """A process that has imported `program` and forks it. Ends when this process does; what it forked lives on.

    `program` is a module with `prepare` and `serve`, see `fork_server_main`. Made at once; until the imports are done
    whoever asks for a server waits.
    """

    def __init__(
        self, program: str, environment: Mapping[str, str], imported_with: Mapping[str, str], scratch: Path
    ) -> None:
        """`imported_with`: the part of `environment` that imports may read, which forked servers must share."""
        log = scratch / f"fork-server-{os.getpid()}-{time.monotonic_ns()}.log"
        order = {"program": program, "imported_with": dict(imported_with)}
        self._process = GuardedProcess(
            fork_server_command(), environment, json.dumps(order), log, scratch, adopts=False
        )
        self.address = f"{self._process.socket_folder}/{SOCKET}"
        """Path of the socket at which any process of this user on this machine can ask for servers."""

    @property
    def pid(self) -> int | None:
        """Process id of the fork server."""
        return self._process.pid

    def ended(self) -> str | None:
        """None while it runs; then the exception that ended it, or its exit code, in words."""
        code = self._process.exit_code()
        return None if code is None else self._process.last_exception() or f"it ended with exit code {code}"

    def stop(self) -> None:
        """End it. What it forked lives on."""
        self._process.stop()
        self._process.log.unlink(missing_ok=True)


class ForkedProcess(ServerProcess):
    """A server that a fork server forked. Its guard is no child of this process, so they talk by a socket."""

    def __init__(
        self,
        address: str,
        name: str,
        order: Any,
        environment: Mapping[str, str],
        imported_with: Mapping[str, str],
        log: Path,
        scratch: Path,
        timeout_s: float,
    ) -> None:
        """Have the fork server at `address` fork a server that is given `order`; wait until it runs.

        NotForkedError if it has not after `timeout_s`, which includes the fork server's own imports.
        """
        super().__init__(log, scratch)
        self._lock = threading.Lock()
        self._received = b""
        self._status: int | None = None
        asked = {
            "order": order,
            "name": name,
            "log": os.path.abspath(log),
            "folder": os.getcwd(),
            "temporary": str(self._temporary),
            "environment": dict(environment),
            "imported_with": dict(imported_with),
        }
        try:
            self._connection = connected_socket(address, timeout_s)
            with contextlib.suppress(BrokenPipeError):  # one that refuses says why, and does not wait for what is asked
                self._connection.sendall(json.dumps(asked).encode() + b"\n")
            answer = self._read_line()
        except OSError as error:
            shutil.rmtree(self._temporary, ignore_errors=True)
            raise NotForkedError(f"the fork server does not answer ({error})") from error
        if answer is None or "refused" in answer:
            self._connection.close()
            shutil.rmtree(self._temporary, ignore_errors=True)
            raise NotForkedError(answer["refused"] if answer else "the fork server ended")
        self.guard_pid, self.pid = answer["guard"], answer["server"]
        self._connection.setblocking(False)

    def exit_code(self) -> int | None:
        with self._lock:
            if self._status is None:
                with contextlib.suppress(BlockingIOError):
                    self._note(self._read_line())
            return self._status

    def stop(self, timeout: float = 15.0) -> None:
        with self._lock:
            if self._status is None:
                self._connection.settimeout(timeout)
                try:
                    self._connection.shutdown(socket.SHUT_WR)
                    self._note(self._read_line())
                except OSError:  # hung, or already gone
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(self.guard_pid, signal.SIGKILL)  # the kernel then ends the server
                    self._note(None)
            self._connection.close()
        shutil.rmtree(self._temporary, ignore_errors=True)  # done by the guard already, unless that was killed

    def _note(self, answer: dict[str, Any] | None) -> None:
        """Without an answer the connection has ended: somebody killed the guard."""
        self._status = answer["status"] if answer else -signal.SIGKILL

    def _read_line(self) -> dict[str, Any] | None:
        """The guard's next message; None once it is gone. OSError when none comes in time."""
        while b"\n" not in self._received:
            try:
                piece = self._connection.recv(4096)
            except ConnectionResetError:
                piece = b""
            if not piece:
                return None
            self._received += piece
        line, _, self._received = self._received.partition(b"\n")
        answer: dict[str, Any] = json.loads(line)
        return answer

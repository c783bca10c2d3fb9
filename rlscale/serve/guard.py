"""The guard: a small process that runs one server and sees to it that nothing of the server outlives the run.

Run as a file by a bare interpreter (`python -I -S guard.py`), so it imports nothing but the standard library, starts in
20 ms and holds 10 MB. Its standard input is a pipe from the supervisor: first one line of JSON (the order), then
nothing more. The guard of a forked engine (`fork_server_main`) is made of the same functions. What happens when
somebody dies, by `kill -9` included:

- the supervisor: the pipe closes (or, should another process hold its end, the parent's id changes): the guard ends
  the server;
- the server's main process: the guard is its parent, ends what is left of the server and exits;
- the guard itself: the kernel kills the server's main process (parent-death signal), which likewise takes SGLang's own
  processes with it.

The parent-death signal fires when the *thread* that started a process ends, so it is used only below the guard, which
has one thread. The guard is a child subreaper: descendants that lose their parent become its children, so it finds
them also when they left the process group. Ending means SIGKILL: there is nothing to be saved in a server.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
KILL_DEADLINE_S = 10.0
SOCKET_ROOM = 70
"""Longest path of a folder for Unix sockets: their own limit is 107 bytes, and torch and zmq add up to 35."""


def prctl(option: int, value: int) -> None:
    """Linux's prctl(2) with one argument; does nothing on systems that have none."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def die_with_parent() -> None:
    """Runs in the server's process before its program is loaded."""
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def socket_folder(temporary: str, guard: int) -> str:
    """The temporary folder, which is the working folder of process `guard`, under a name short enough for sockets."""
    return temporary if len(os.fsencode(temporary)) <= SOCKET_ROOM else f"/proc/{guard}/cwd"


def opened_log(path: str, follow: bool = False) -> int:
    """The descriptor of a log that is appended to. OSError for a link, but with `follow`: it leads to another file."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOCTTY | os.O_CLOEXEC
    return os.open(path, flags if follow else flags | os.O_NOFOLLOW, 0o666)


def start(order: dict) -> subprocess.Popen:
    """Start the server of `order` in a process group of its own, its output appended to the log, its input given."""
    with os.fdopen(opened_log(order["log"]), "ab") as log:
        server = subprocess.Popen(
            order["command"],
            cwd=order["folder"],
            env={**order["environment"], "TMPDIR": socket_folder(order["temporary"], os.getpid())},
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            start_new_session=True,
            preexec_fn=die_with_parent,
        )
    assert server.stdin is not None
    with contextlib.suppress(BrokenPipeError):  # it died at once; its log says why
        server.stdin.write(order["input"].encode())
        server.stdin.close()
    return server


def children_of(parent: int) -> list[int]:
    """Ids of the direct children of a process."""
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with contextlib.suppress(OSError), open(f"/proc/{entry}/stat") as file:
                if int(file.read().rpartition(")")[2].split()[1]) == parent:
                    found.append(int(entry))
    return found


def end_descendants(group: int) -> None:
    """SIGKILL the process group and whatever gets re-parented to this guard, reap, until nothing is left."""
    deadline = time.monotonic() + KILL_DEADLINE_S
    while time.monotonic() < deadline:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(group, signal.SIGKILL)
        for child in children_of(os.getpid()):
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return
        time.sleep(0.01)


def watch(server: int, wire: int, orphaned: Callable[[], bool]) -> int:
    """Return when the server has ended (its exit code) or must end because the supervisor is gone (0).

    The supervisor is gone when it closes the other end of the descriptor `wire`, or when `orphaned` says so.
    """
    wake_read, wake_write = os.pipe()
    for end in (wake_read, wake_write):
        os.set_blocking(end, False)
    signal.set_wakeup_fd(wake_write)
    signal.signal(signal.SIGCHLD, lambda number, frame: None)
    ended = []
    signal.signal(signal.SIGTERM, lambda number, frame: ended.append(number))
    while not ended:
        readable, _, _ = select.select([wire, wake_read], [], [], 1.0)
        if wake_read in readable:
            with contextlib.suppress(BlockingIOError):
                os.read(wake_read, 4096)
        if (wire in readable and not os.read(wire, 4096)) or orphaned():
            return 0
        code = reap(server)
        if code is not None:
            return code
    return 0


def reap(server: int) -> int | None:
    """Collect ended children, also adopted ones; the server's exit code (negative: its signal) once it has ended."""
    try:
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return None
            if pid == server:
                return os.waitstatus_to_exitcode(status)
    except ChildProcessError:
        return 0


def as_status(code: int) -> int:
    """The exit status of a process that passes `code` on: a signal becomes 128 + its number, as in a shell."""
    return code if 0 <= code < 256 else 128 - code


def main() -> int:
    supervisor = os.getppid()
    line = b""
    while not line.endswith(b"\n"):  # unbuffered: the rest of the pipe is watched with select
        piece = os.read(0, 65536)
        if not piece:
            return 0
        line += piece
    order = json.loads(line)
    if order["adopts"]:
        prctl(PR_SET_CHILD_SUBREAPER, 1)
    server = start(order)
    del line
    with contextlib.suppress(OSError):
        os.write(1, f"{server.pid}\n".encode())
    try:
        code = watch(server.pid, 0, lambda: os.getppid() != supervisor)
    finally:
        end_descendants(server.pid)
        shutil.rmtree(order["temporary"], ignore_errors=True)
    return as_status(code)


if __name__ == "__main__":
    sys.exit(main())

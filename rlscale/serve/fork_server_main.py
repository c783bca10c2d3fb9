"""The program of a fork server: it imports what a program needs once, and forks that program whenever somebody asks.

Its order, on standard input: {"program": module, "imported_with": {variable: value}}. The module has `prepare()`,
called once, and `serve(order)`, called in every forked process. Whoever connects to the Unix socket `forks` in its
temporary folder sends one line of JSON: {"order": for `serve`, "name", "log", "folder", "temporary", "environment",
"imported_with"}, and where it wants standard output elsewhere than in the log, "output"; it is answered with {"guard":
pid, "server": pid} or {"refused": why}. Of each connection becomes a guard, a process forked from this one, and below
it the server, as `guard.py` describes. The server lives until it is ended, or the connection, or the process that made
it: this process's own end ends nothing but the forking.

Only a process with one thread can be forked, since locks that other threads hold stay locked in the copy. Libraries
start threads when they compute, so nothing is computed here, and before every fork the threads are counted. A CUDA
context does not survive a fork at all: servers on GPUs are not started this way.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import select
import shutil
import signal
import socket
import struct
import sys
import tempfile
import traceback
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

from setproctitle import setproctitle

from rlscale.serve import guard

SOCKET = "forks"
"""Name of the socket in the temporary folder."""

_PEER = "iII"
"""What SO_PEERCRED gives: process, user and group of the other end."""


def main() -> None:
    """Fork for everybody who connects, until this process is ended."""
    order = json.loads(sys.stdin.buffer.read())
    setproctitle(f"rlscale fork server of {order['program']}")
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    path = os.path.join(tempfile.gettempdir(), SOCKET)
    listener.bind(f"{path}.new")
    listener.listen(64)  # who connects by now waits until the imports are done
    os.rename(f"{path}.new", path)  # so that whoever finds the socket is listened to
    program = importlib.import_module(order["program"])
    program.prepare()
    gc.collect()
    gc.freeze()  # forked processes share these objects' memory as long as nobody walks them
    sources = dict(source_times())
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # guards that end are reaped by the kernel
    while True:
        connection, _ = listener.accept()
        threads = sorted(os.listdir("/proc/self/task"))
        if len(threads) > 1:
            refuse(connection, f"the fork server has {len(threads)} threads, so that no process can be forked from it")
        elif os.fork() == 0:
            listener.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            os._exit(guard_one(connection, program, order["imported_with"], sources))
        connection.close()


def refuse(connection: socket.socket, why: str) -> None:
    """Tell the other end that it gets no server."""
    with contextlib.suppress(OSError):
        connection.sendall(json.dumps({"refused": why}).encode() + b"\n")


def source_times() -> Iterator[tuple[Path, int]]:
    """The files of rlscale that are imported by now, and when they were last changed, in nanoseconds."""
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] == "rlscale" and (file := getattr(module, "__file__", None)):
            with contextlib.suppress(OSError):
                yield Path(file), os.stat(file).st_mtime_ns


def guard_one(
    connection: socket.socket, program: Any, imported_with: Mapping[str, str], sources: Mapping[Path, int]
) -> int:
    """In a forked process: read what is asked for, fork the server, watch over it; the exit status."""
    supervisor = os.pidfd_open(peer_of(connection))
    with connection.makefile("rb") as lines:
        line = lines.readline()
    if not line.endswith(b"\n"):
        return 0
    asked = json.loads(line)
    different = sorted(
        name
        for name in {*imported_with, *asked["imported_with"]}
        if imported_with.get(name) != asked["imported_with"].get(name)
    )
    if different:
        refuse(connection, f"{', '.join(different)} had other values when the fork server imported its program")
        return 0
    changed = sorted(file.name for file, when in source_times() if sources.get(file, when) != when)
    if changed:
        refuse(connection, f"{', '.join(changed)} changed after the fork server imported it")
        return 0
    setproctitle(f"rlscale guard of {asked['name']}")
    os.setsid()
    os.chdir(asked["temporary"])
    guard.prctl(guard.PR_SET_CHILD_SUBREAPER, 1)
    itself = os.getpid()
    server = os.fork()
    if server == 0:
        connection.close()
        os.close(supervisor)
        become_server(asked, program, itself)
    connection.sendall(json.dumps({"guard": itself, "server": server}).encode() + b"\n")
    try:
        code = guard.watch(server, connection.fileno(), lambda: bool(select.select([supervisor], [], [], 0)[0]))
    finally:
        guard.end_descendants(server)
        shutil.rmtree(asked["temporary"], ignore_errors=True)
    status = guard.as_status(code)
    with contextlib.suppress(OSError):
        connection.sendall(json.dumps({"status": status}).encode() + b"\n")
    return status


def peer_of(connection: socket.socket) -> int:
    """The id of the process that made the connection."""
    size = struct.calcsize(_PEER)
    return int(struct.unpack(_PEER, connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size))[0])


def become_server(asked: Mapping[str, Any], program: Any, parent: int) -> NoReturn:
    """In the server's own process: take over its session, log, folder and environment, and run it."""
    status = 1
    try:
        os.setsid()
        guard.die_with_parent()
        if os.getppid() != parent:  # it died before the kernel was told what then is to happen
            os._exit(status)
        setproctitle(f"rlscale {asked['name']} ({program.__name__})")
        # With an output these are what the one that asks writes to itself: links in /proc.
        own = "output" in asked
        for descriptor, path in ((1, asked.get("output", asked["log"])), (2, asked["log"])):
            output = guard.opened_log(path, follow=own)
            os.dup2(output, descriptor)
            os.close(output)
        # Those of the fork server remember what kind of file theirs was.
        sys.stdout = os.fdopen(1, "w", closefd=False)
        sys.stderr = os.fdopen(2, "w", buffering=1, errors="backslashreplace", closefd=False)
        os.chdir(asked["folder"])
        os.environ.clear()
        os.environ.update(asked["environment"], TMPDIR=guard.socket_folder(asked["temporary"], parent))
        tempfile.tempdir = None  # found anew by TMPDIR
        program.serve(asked["order"])
        status = 0
    except SystemExit as ended:
        status = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


if __name__ == "__main__":
    main()

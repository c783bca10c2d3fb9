"""The program that confines itself and then becomes the one to be run (started by program.py).

Three processes: the first waits, so that its death is that of all; the second is the first of a PID namespace, which
ends with it; the third is the program. What came of it is written to the status pipe, a line each: `started`, then
`exit N` or `signal N`; or `refused STEP: REASON` where the kernel lacks a part, in which case nothing is run.

It starts for every program, so that it imports as little as possible: json, typing and contextlib double its time.
"""

from __future__ import annotations

import marshal
import os
import resource
import sys

from rlscale.envs.sandbox import kernel

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

_MOUNT_AT = "/sys"
"""A folder that every Linux has, and that programs do not need: the new root is mounted there, for this process."""
_BOX = "/box"
_NOBODY = 65534
_DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")


class Refused(Exception):
    """A part of the sandbox is not to be had; the message names it."""


def main() -> None:
    """Run what the file `argv[1]` describes, marshalled; `argv[2]` is the status pipe. Both are file descriptors."""
    specification, status = int(sys.argv[1]), int(sys.argv[2])
    os.set_inheritable(specification, False)
    os.set_inheritable(status, False)
    with os.fdopen(specification, "rb") as file:
        given = marshal.load(file)
    try:
        kernel.default_signals()
        kernel.die_with_parent()
        if given["confined"]:
            _confined(given, status)
        else:
            _limited(given, status)
    except Refused as error:
        os.write(status, f"refused {error}\n".encode())
    os._exit(0)


def _confined(given: dict[str, Any], status: int) -> None:
    proc = os.open("/proc", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    names = kernel.NEWNS | kernel.NEWNET | kernel.NEWIPC | kernel.NEWUTS | kernel.NEWPID
    root = os.geteuid() == 0
    with Step("namespaces"):
        user, group = os.geteuid(), os.getegid()
        kernel.unshare(names if root else names | kernel.NEWUSER)
        if not root:
            _map_to(proc, user, group)
    with Step("a root of its own"):
        _build_root(given)
    _in_child(lambda: _first(given, status, proc, root), status)


def _first(given: dict[str, Any], status: int, proc: int, root: bool) -> None:
    """The first process of the PID namespace."""
    with Step("a user namespace of its own"):
        if root:  # root's processes are never too many: an unprivileged user's are, and counted for this sandbox alone
            os.setgroups([])
            os.setresgid(_NOBODY, _NOBODY, _NOBODY)
            os.setresuid(_NOBODY, _NOBODY, _NOBODY)
            kernel.own_proc_files()
            kernel.unshare(kernel.NEWUSER)
            _map_to(proc, _NOBODY, _NOBODY)
        kernel.die_with_parent()
        _write(proc, "sys/user/max_user_namespaces", "0")
    os.close(proc)

    def program() -> None:
        rights = {path: kernel.READ for path in given["readable"] if os.path.exists(path)}
        rights |= {path: kernel.READ_WRITE_FILE for path in _DEVICES if os.path.exists(path)}
        with Step("no new privileges"):
            os.setsid()
            kernel.no_new_privileges()
        with Step("Landlock"):
            kernel.landlock(rights, _BOX)
        _limit(given)
        # Counted in the user namespace; outside of one it would count all that this user runs.
        resource.setrlimit(resource.RLIMIT_NPROC, (given["processes"], given["processes"]))
        with Step("seccomp"):
            kernel.filter_system_calls()
        _become(given, status)

    _in_child(program, status, report=True)


def _limited(given: dict[str, Any], status: int) -> None:
    """Without a sandbox: in the folder that `given` names, within the limits on a single process."""
    os.chdir(given["folder"])
    _write_files(given["files"])

    def program() -> None:
        _limit(given)
        _become(given, status)

    _in_child(program, status, report=True)


def _in_child(work: Callable[[], None], status: int, report: bool = False) -> None:
    """Do the work in a child and wait for it, and for every orphan. `report` its end, if it became the program."""
    child = os.fork()
    if child == 0:
        try:
            work()
        except Refused as error:
            os.write(status, f"refused {error}\n".encode())
        os._exit(0)
    while True:
        found, ended = os.wait()
        if found == child:
            break
    if report:
        word = f"signal {os.WTERMSIG(ended)}" if os.WIFSIGNALED(ended) else f"exit {os.WEXITSTATUS(ended)}"
        os.write(status, f"{word}\n".encode())


def _build_root(given: dict[str, Any]) -> None:
    """A root with what the program may read, devices that are none, and an empty folder of limited size."""
    kernel.mount(None, "/", None, kernel.RECURSIVE | kernel.PRIVATE)
    kernel.mount("tmpfs", _MOUNT_AT, "tmpfs", kernel.NOSUID, "size=1m,mode=755")
    os.chdir(_MOUNT_AT)
    for path in given["readable"]:
        _show(path)
    for path in _DEVICES:
        _show(path, read_only=False)
    os.mkdir(f".{_BOX}")
    size = f"size={given['disk_bytes']},nr_inodes={given['files_most']},mode=777"
    kernel.mount("tmpfs", f".{_BOX}", "tmpfs", kernel.NOSUID | kernel.NODEV, size)
    kernel.make_read_only(".", recursive=False)
    kernel.pivot_to_here()
    os.chdir(_BOX)
    _write_files(given["files"])


def _show(path: str, read_only: bool = True) -> None:
    """The path of the old root at the same place in the new one; a link stays a link, what is missing is left out."""
    place = f".{path}"
    if os.path.lexists(place) or not os.path.lexists(path):
        return
    os.makedirs(os.path.dirname(place), exist_ok=True)
    if os.path.islink(path):
        os.symlink(os.readlink(path), place)
        return
    if os.path.isdir(path):
        os.mkdir(place)
    else:
        os.close(os.open(place, os.O_CREAT | os.O_WRONLY, 0o644))
    kernel.mount(path, place, None, kernel.BIND | kernel.RECURSIVE)
    if read_only:
        kernel.make_read_only(place)


def _write_files(files: dict[str, str]) -> None:
    for name, text in files.items():
        if folder := os.path.dirname(name):
            os.makedirs(folder, exist_ok=True)
        with open(name, "w", encoding="utf-8", errors="surrogatepass") as file:
            file.write(text)


def _limit(given: dict[str, Any]) -> None:
    seconds = given["cpu_s"]
    for what, most in (
        (resource.RLIMIT_AS, given["memory_bytes"]),
        (resource.RLIMIT_DATA, given["memory_bytes"]),
        (resource.RLIMIT_FSIZE, given["disk_bytes"]),
        (resource.RLIMIT_NOFILE, 64),  # what pipes and pairs of sockets hold is in no other limit
        (resource.RLIMIT_CORE, 1),  # 0 would still start a program that the kernel pipes dumps to, outside, as root
        (resource.RLIMIT_MEMLOCK, 0),
    ):
        resource.setrlimit(what, (most, most))
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))


def _become(given: dict[str, Any], status: int) -> None:
    os.write(status, b"started\n")
    with Step(f"starting {given['command'][0]}"):
        os.execve(given["command"][0], given["command"], given["environment"])


def _map_to(proc: int, user: int, group: int) -> None:
    """Be the same user and group in the new namespace."""
    _write(proc, "self/setgroups", "deny")
    _write(proc, "self/uid_map", f"{user} {user} 1")
    _write(proc, "self/gid_map", f"{group} {group} 1")


def _write(folder: int, name: str, text: str) -> None:
    file = os.open(name, os.O_WRONLY | os.O_CLOEXEC, dir_fd=folder)
    os.write(file, text.encode())
    os.close(file)


class Step:
    """A context in which an OSError means that the kernel lacks what the step needs."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, OSError):
            raise Refused(f"{self._name}: {error.strerror or error}") from error

"""The kernel's calls that confine a process and that Python 3.11 has no function for. Linux only.

Imported by a program that starts with `python -I -S` (confine.py): the standard library only, and little of it.
"""

from __future__ import annotations

import ctypes
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import TypeVar

    T = TypeVar("T")

NEWNS, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET = 0x20000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000
NOSUID, NODEV, BIND, RECURSIVE, PRIVATE = 2, 4, 4096, 16384, 1 << 18
_DETACH = 2
_READ_ONLY, _NOSUID, _NODEV = 1, 2, 4  # of mount_setattr
_AT_FDCWD, _AT_RECURSIVE = -100, 0x8000
_DEATH_SIGNAL, _DUMPABLE, _NO_NEW_PRIVILEGES, _SECCOMP = 1, 4, 38, 22
_SIGINT, _SIGPIPE, _SIGXFSZ = 2, 13, 25
_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
# These have the same number everywhere.
_MOUNT_SETATTR, _LANDLOCK_CREATE, _LANDLOCK_ADD, _LANDLOCK_RESTRICT = 442, 444, 445, 446

_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR, _MAKE_CHAR, _MAKE_BLOCK = 1, 2, 4, 8, 1 << 6, 1 << 11
READ = _EXECUTE | _READ_FILE | _READ_DIR
READ_WRITE_FILE = _READ_FILE | _WRITE_FILE
"""Rights below a path, of Landlock."""

_libc = ctypes.CDLL(None, use_errno=True)


def unshare(flags: int) -> None:
    """Leave the namespaces that `flags` name for new ones. OSError."""
    _checked(_libc.unshare(ctypes.c_int(flags)))


def mount(source: str | None, target: str, kind: str | None, flags: int, data: str = "") -> None:
    """mount(2). OSError."""
    words = [None if word is None else os.fsencode(word) for word in (source, target, kind)]
    _checked(_libc.mount(words[0], words[1], words[2], ctypes.c_ulong(flags), os.fsencode(data)))


def make_read_only(path: str, recursive: bool = True) -> None:
    """Nothing can be written to the mount at `path`, nor to those below it. OSError before Linux 5.12."""
    attributes = (ctypes.c_uint64 * 4)(_READ_ONLY | _NOSUID | (_NODEV if recursive else 0), 0, 0, 0)
    flags = ctypes.c_uint(_AT_RECURSIVE if recursive else 0)
    size = ctypes.c_size_t(ctypes.sizeof(attributes))
    _checked(_libc.syscall(_MOUNT_SETATTR, _AT_FDCWD, os.fsencode(path), flags, ctypes.byref(attributes), size))


def pivot_to_here() -> None:
    """Make the current folder, a mount, the root, and forget the old one. OSError."""
    _checked(_libc.syscall(_of_machine(_PIVOT_ROOT), b".", b"."))
    _checked(_libc.umount2(b".", _DETACH))
    os.chdir("/")


def die_with_parent() -> None:
    """Be killed when the thread ends that started this process. A change of user undoes it."""
    _checked(_libc.prctl(_DEATH_SIGNAL, 9, 0, 0, 0))


def default_signals() -> None:
    """Undo what Python does about signals: it answers SIGINT, and what it starts inherits that SIGPIPE is ignored."""
    for number in (_SIGINT, _SIGPIPE, _SIGXFSZ):
        _libc.signal(ctypes.c_int(number), None)


def own_proc_files() -> None:
    """After a change of user, /proc/self is root's until this is called."""
    _checked(_libc.prctl(_DUMPABLE, 1, 0, 0, 0))


def no_new_privileges() -> None:
    """No program that is started gains rights from its file. OSError."""
    _checked(_libc.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0))


def landlock(rights: Mapping[str, int], writable: str) -> None:
    """Leave the process the `rights` at their paths, everything but devices below `writable`, and no other file.

    OSError where the kernel has no Landlock (before Linux 5.13, or not among its active security modules).
    """
    version = _checked(_libc.syscall(_LANDLOCK_CREATE, None, ctypes.c_size_t(0), 1))
    bits = 16 if version >= 5 else {1: 13, 2: 14}.get(version, 15)
    files = (1 << bits) - 1
    handled = (ctypes.c_uint64 * 3)(files, 3 if version >= 4 else 0, 3 if version >= 6 else 0)  # TCP; sockets, signals
    size = ctypes.c_size_t(24 if version >= 6 else 16 if version >= 4 else 8)
    ruleset = _checked(_libc.syscall(_LANDLOCK_CREATE, ctypes.byref(handled), size, 0))
    for path, right in {**rights, writable: files & ~_MAKE_CHAR & ~_MAKE_BLOCK}.items():
        found = os.open(path, os.O_PATH | os.O_CLOEXEC)
        if not os.path.isdir(path):
            right &= ~_READ_DIR
        rule = right.to_bytes(8, "little") + found.to_bytes(4, "little")
        _checked(_libc.syscall(_LANDLOCK_ADD, ruleset, 1, rule, 0))
        os.close(found)
    _checked(_libc.syscall(_LANDLOCK_RESTRICT, ruleset, 0))
    os.close(ruleset)


_AUDIT = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_DENIED: Mapping[str, Sequence[int]] = {
    # socket, ptrace, process_vm_*, pidfd_getfd, perf_event_open, userfaultfd, bpf, io_uring_setup, keys, fanotify_init,
    # syslog; memory that no limit counts: shmget, semget, msgget, mq_open, memfd_create, memfd_secret, setsockopt
    # (larger buffers); mounts and namespaces
    "x86_64": (
        *(41, 101, 310, 311, 438, 298, 323, 321, 425, 248, 249, 250, 300, 103, 29, 64, 68, 240, 319, 447, 54),
        *(155, 161, 165, 166, 272, 308, 304, 428, 429, 430, 432, 442),
    ),
    "aarch64": (
        *(198, 117, 270, 271, 438, 241, 282, 280, 425, 217, 218, 219, 262, 116, 194, 190, 186, 180, 279, 447, 208),
        *(41, 51, 40, 39, 97, 268, 265, 428, 429, 430, 432, 442),
    ),
}
"""System calls that fail with EPERM."""
_PRLIMIT = {"x86_64": 302, "aarch64": 261}
"""Fails with EPERM for another process than the one that calls it: its watcher has the same user."""
_LOAD, _EQUAL, _AT_LEAST, _RETURN = 0x20, 0x15, 0x35, 0x06
_ALLOW, _EPERM, _KILL = 0x7FFF0000, 0x00050001, 0x80000000
_FIRST_ARGUMENT = 16
_OTHER_ABI = 0x40000000
"""From here on, numbers of x86_64 are those of its 32-bit twin."""


def filter_system_calls(denied: Sequence[int] | None = None) -> None:
    """Let these calls, by default those of `_DENIED`, fail with EPERM, and the limits of other processes be theirs.

    OSError where there is no seccomp, and on other machines than x86-64 and ARM.
    """
    denied = _of_machine(_DENIED) if denied is None else denied
    to_end = len(denied)
    program = [(_LOAD, 0, 0, 4), (_EQUAL, 1, 0, _of_machine(_AUDIT)), (_RETURN, 0, 0, _KILL), (_LOAD, 0, 0, 0)]
    program += [(_AT_LEAST, to_end + 4, 0, _OTHER_ABI)]
    program += [(_EQUAL, to_end - place + 3, 0, number) for place, number in enumerate(denied)]
    program += [(_EQUAL, 0, 2, _of_machine(_PRLIMIT)), (_LOAD, 0, 0, _FIRST_ARGUMENT), (_EQUAL, 0, 1, 0)]
    program += [(_RETURN, 0, 0, _ALLOW), (_RETURN, 0, 0, _EPERM)]
    words = b"".join(
        code.to_bytes(2, "little") + bytes((true, false)) + value.to_bytes(4, "little")
        for code, true, false, value in program
    )
    buffer = ctypes.create_string_buffer(words, len(words))
    pointer = ctypes.c_void_p(ctypes.addressof(buffer))
    header = (ctypes.c_uint64 * 2)(len(program), pointer.value or 0)  # a struct sock_fprog, with its padding
    _checked(_libc.prctl(_SECCOMP, 2, ctypes.byref(header), 0, 0))


def _of_machine(table: Mapping[str, T]) -> T:
    machine = os.uname().machine
    if machine not in table:
        raise OSError(0, f"it is not known for {machine}")
    return table[machine]


def _checked(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result

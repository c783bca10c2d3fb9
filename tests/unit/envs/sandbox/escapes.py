"""Attempts to get out of the sandbox: small Python programs, each of which prints ESCAPED where it succeeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple


class Escape(NamedTuple):
    """`outside`: whether it is shown to succeed without the sandbox: "yes", for "root" only, not if "harmful"."""

    name: str
    code: str
    outside: str = "yes"


_C = "import ctypes; c = ctypes.CDLL(None, use_errno=True); "
_UNIX = "import socket; s = socket.socket(socket.AF_UNIX); "

ESCAPES = [
    Escape("read /etc/passwd", "ok = 'root' in open('/etc/passwd').read()"),
    Escape("read a file of this user", "ok = open('{outside}/secret').read() == 'secret'"),
    Escape("read it through a link", "os.symlink('{outside}/secret', 'l'); ok = open('l').read() == 'secret'"),
    Escape("read it through a hard link", "os.link('{outside}/secret', '{outside}/hard'); ok = True"),
    Escape("list a folder", "ok = 'secret' in os.listdir('{outside}')"),
    Escape("see that a file exists", "ok = os.path.exists('{outside}/secret')"),
    Escape("write outside", "open('{outside}/new', 'w').write('x'); ok = True"),
    Escape("truncate a file outside", "os.truncate('{outside}/secret', 6); ok = True"),
    Escape("climb by ..", "ok = os.path.exists('../' * 20 + '{outside}/secret')"),
    Escape("change its interpreter", "open(os.__file__, 'r+b').close(); ok = True", "root"),
    Escape("write to /dev/shm", "open('/dev/shm/{unique}', 'w'); os.remove('/dev/shm/{unique}'); ok = True"),
    Escape("read /proc/self", "ok = bool(open('/proc/self/maps').read())"),
    Escape("read another's environment", "ok = bool(open('/proc/{pid}/environ').read())"),
    Escape("see this process", "os.kill({pid}, 0); ok = True"),
    Escape("read the environment's secret", "ok = os.environ['SECRET_KEY'] == 'secret'"),
    Escape("use an inherited file", "ok = any(is_open(n) for n in range(3, 200))", "harmful"),
    Escape("connect over loopback", "import socket; socket.create_connection(('127.0.0.1', {port}), 2); ok = True"),
    Escape("listen on loopback", "import socket; s = socket.socket(); s.bind(('127.0.0.1', 0)); s.listen(); ok = True"),
    Escape("send a datagram", "import socket; s = socket.socket(type=2); s.sendto(b'x', ('127.0.0.1', 9)); ok = True"),
    Escape("socket by number", _C + "ok = c.syscall({socket}, 2, 1, 0) >= 0"),
    Escape("a netlink socket", "import socket; s = socket.socket(socket.AF_NETLINK, 3, 0); ok = True"),
    Escape("connect to a socket file", _UNIX + "s.connect('{outside}/socket'); ok = True"),
    Escape("connect to an abstract socket", _UNIX + "s.connect(chr(0) + '{unique}'); ok = True"),
    Escape("40 processes", "r, w = os.pipe()\nfor _ in range(40):\n"
           "  if os.fork() == 0: os.close(w); os.read(r, 1); os._exit(0)\nok = True"),
    Escape("40 threads", "e = threading.Event()\n"
           "for _ in range(40): threading.Thread(target=e.wait).start()\nok = True"),
    Escape("2 GiB of memory", "import mmap; m = mmap.mmap(-1, 2 << 30); ok = True"),
    Escape("a file of 8 MiB", "f = open('f', 'wb'); f.write(b'x' * (8 << 20)); f.flush(); ok = True"),
    Escape("8 files of 1 MiB", "for n in range(8): open(str(n), 'wb').write(b'x' * (1 << 20))\nok = True"),
    Escape("2000 empty files", "for n in range(2000): open(str(n), 'w').close()\nok = True"),
    Escape("memory in memfd_create", "f = os.memfd_create('x'); os.write(f, b'x' * 99); ok = True"),
    Escape("System V shared memory", _C + "i = c.shmget(0, 4096, 0o600); ok = i >= 0; c.shmctl(i, 0, 0)"),
    Escape("be traced", _C + "ok = c.ptrace(0, 0, 0, 0) == 0"),
    Escape("read another's memory", _C + "b = (ctypes.c_size_t * 2)(0, 0); "
           "c.process_vm_readv({pid}, b, 1, b, 1, 0); ok = ctypes.get_errno() == 0"),
    Escape("new namespaces", _C + "ok = c.unshare(0x10000000) == 0", "root"),
    Escape("a mount", _C + "ok = c.mount(b'none', b'.', b'tmpfs', 0, 0) == 0", "harmful"),
    Escape("another root", "os.chroot('.'); ok = True", "root"),
    Escape("become root", "os.setuid(0); ok = True", "root"),
    Escape("a device", "os.mknod('d', 0o20600, os.makedev(1, 1)); ok = True", "root"),
    Escape("kill its watcher", "os.kill(1, 9); time.sleep(0.1); ok = True", "harmful"),
    Escape("raise its limits", "import resource as r; r.setrlimit(r.RLIMIT_AS, (-1, -1)); ok = True", "root"),
    Escape("the 32-bit calls", _C + "c.syscall({socket} | 1 << 30, 2, 1, 0); ok = ctypes.get_errno() != 1", "harmful"),
    Escape("write to a socket file from a pair", "import socket; a, b = socket.socketpair(socket.AF_UNIX, 2); "
           "a.sendto(b'x', '{outside}/datagrams'); ok = True"),
    Escape("write to an abstract socket from a pair", "import socket; a, b = socket.socketpair(socket.AF_UNIX, 2); "
           "a.sendto(b'x', chr(0) + '{unique}.datagrams'); ok = True"),
    Escape("300 open files", "held = [os.open('/dev/null', 0) for _ in range(300)]; ok = True"),
    Escape("disk in files without a name", "held = []\nfor n in range(8):\n"
           "  f = open('u', 'wb'); os.unlink('u'); f.write(b'x' * (1 << 20)); f.flush(); held.append(f)\nok = True"),
    Escape("disk in a mapped file", "import mmap; f = open('m', 'w+b'); f.truncate(8 << 20); "
           "mmap.mmap(f.fileno(), 8 << 20)[:] = b'x' * (8 << 20); ok = True"),
    Escape("write to /dev", "open('/dev/{unique}', 'w').close(); os.remove('/dev/{unique}'); ok = True", "root"),
    Escape("its files by /dev/fd", "ok = bool(os.listdir('/dev/fd'))"),
    Escape("rights of a program's owner", _C + "ok = c.prctl(39, 0, 0, 0, 0) == 0"),
    Escape("a core dump", "import resource as r; r.setrlimit(r.RLIMIT_CORE, (1 << 20, 1 << 20)); ok = True", "root"),
    Escape("40 orphans", "n = 0\nfor _ in range(40):\n"
           "  if os.fork() == 0:\n    try: child = os.fork()\n    except OSError: os._exit(1)\n"
           "    if child == 0: time.sleep(0.5)\n    os._exit(0)\n"
           "  n += os.wait()[1] == 0\nok = n == 40"),
    Escape("memory in buffers of sockets", "import socket; a, b = socket.socketpair(); "
           "a.setsockopt(1, 7, 1 << 20); ok = a.getsockopt(1, 7) > 1 << 18"),
    Escape("another user namespace by clone", _C + "p = c.syscall({clone}, 0x10000011, 0, 0, 0, 0)\n"
           "if p == 0: os._exit(0)\nok = p > 0", "root"),
    Escape("join its watcher's namespaces", _C + "f = os.pidfd_open(1); ok = c.setns(f, 0x20000) == 0", "harmful"),
    Escape("take its watcher's files", _C + "f = os.pidfd_open(1); ok = c.syscall(438, f, 0, 0) >= 0", "harmful"),
    Escape("interrupt its watcher", "os.kill(1, 2); time.sleep(0.1); ok = True", "harmful"),
    Escape("limit its watcher", "import resource as r; r.prlimit(1, r.RLIMIT_CPU, (1, 1)); ok = True", "harmful"),
    Escape("keep a key for others", _C + "ok = c.syscall({add_key}, b'user', b'{unique}', b'x', 1, -3) >= 0"),
    Escape("read the kernel's log", _C + "b = ctypes.create_string_buffer(9); ok = c.klogctl(3, b, 9) > 0", "harmful"),
    Escape("time a rival by perf", _C + "ok = c.syscall(298, b'x' * 128, 0, -1, -1, 0) >= 0", "harmful"),
    Escape("io_uring", _C + "c.syscall(425, 1, 0); ok = ctypes.get_errno() != 1", "harmful"),
]  # fmt: skip

PROGRAM = """
import os, sys, threading, time
def is_open(number):
    try:
        os.fstat(number)
        return True
    except OSError:
        return False
for number, (name, code) in enumerate({attempts}):
    os.mkdir(f"attempt{number}")
    os.chdir(f"attempt{number}")
    if os.fork() == 0:
        try:
            ok = False
            exec(code, globals())
            print(name, "ESCAPED" if ok else "kept in", sep=": ", flush=True)
        except BaseException as error:
            print(name, type(error).__name__, sep=": ", flush=True)
        os._exit(0)
    os.wait()
    for left in os.listdir("."):
        os.remove(left)
    os.chdir("..")
"""
"""Makes all attempts, one after the other, each in a process and a folder of its own; a line for each."""


def all_attempts(outside: Mapping[str, str], wanted: Sequence[str]) -> str:
    """The program that makes the attempts whose `outside` is in `wanted`; `outside`: what there is to reach."""
    attempts = []
    for escape in ESCAPES:
        code = escape.code
        for name, value in outside.items():
            code = code.replace("{" + name + "}", value)
        if escape.outside in wanted:
            attempts.append((escape.name, code))
    return PROGRAM.replace("{attempts}", repr(attempts))

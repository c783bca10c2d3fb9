"""Programs in the sandbox: what they cannot do, what they may, how they end, and that it is never weakened silently."""

from __future__ import annotations

import errno
import os
import re
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from rlscale.config.errors import UserError
from rlscale.envs.sandbox import program
from rlscale.envs.sandbox.program import NONE, Limits, Sandbox, SandboxRefused
from tests.unit.envs.sandbox.escapes import ESCAPES, Escape, all_attempts

PYTHON = os.path.realpath(sys.executable)
LIMITS = Limits(wall_s=20.0, cpu_s=5, memory_mb=512, disk_mb=4, processes=16, output_kb=4)
PARTS = "memory|namespaces|a root of its own|a user namespace of its own|no new privileges|Landlock|seccomp"


def machine_number(x86_64: int, aarch64: int) -> int:
    return {"x86_64": x86_64, "aarch64": aarch64}[os.uname().machine]


@pytest.fixture(scope="module")
def sandbox() -> Sandbox:
    try:
        return Sandbox(limits=LIMITS, readable=[sys.base_prefix])
    except UserError as error:
        refused = str(error)
    # Where the kernel lacks a part, what remains to be tested is that it is refused by name.
    assert re.match(rf"the sandbox is refused at ({PARTS}): ", refused)
    pytest.skip(f"refused by name, as it must be here: {refused}")


@pytest.fixture(scope="module")
def outside(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """What there is to reach outside: files, a server on loopback, socket files, this process."""
    folder = Path(os.path.realpath(tmp_path_factory.mktemp("o")))
    unique = uuid.uuid4().hex
    (folder / "secret").write_text("secret")
    os.environ["SECRET_KEY"] = "secret"
    with (
        socket.create_server(("127.0.0.1", 0), backlog=64) as server,
        socket.socket(socket.AF_UNIX) as file,
        socket.socket(socket.AF_UNIX) as abstract,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as datagrams,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as abstract_datagrams,
    ):
        # The path of a socket file may have 107 bytes only.
        os.symlink(folder, short := f"/tmp/{unique}")
        try:
            file.bind(f"{short}/socket")
            file.listen(8)
            abstract.bind(f"\0{unique}")
            abstract.listen(8)
            datagrams.bind(f"{short}/datagrams")
            abstract_datagrams.bind(f"\0{unique}.datagrams")
            yield {
                "outside": short,
                "unique": unique,
                "pid": str(os.getpid()),
                "port": str(server.getsockname()[1]),
                "socket": str(machine_number(41, 198)),
                "clone": str(machine_number(56, 220)),
                "add_key": str(machine_number(248, 217)),
            }
        finally:
            os.unlink(short)
            del os.environ["SECRET_KEY"]


@pytest.fixture(scope="module")
def inside(sandbox: Sandbox, outside: dict[str, str]) -> dict[str, str]:
    """What came of every attempt in the sandbox, by its name."""
    code = all_attempts(outside, ["yes", "root", "harmful"])
    ran = sandbox.run([PYTHON, "-I", "-S", "main.py"], files={"main.py": code})
    assert ran.ended_well, ran.errors
    return dict(line.split(": ", 1) for line in ran.output.splitlines())


@pytest.fixture(scope="module")
def without(outside: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The same without a sandbox, of the attempts that do no harm."""
    code = all_attempts(outside, ["yes", "root"] if os.geteuid() == 0 else ["yes"])
    command, folder = [PYTHON, "-I", "-S", "-c", code], tmp_path_factory.mktemp("without")
    ran = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60, check=True)
    return dict(line.split(": ", 1) for line in ran.stdout.splitlines())


@pytest.mark.parametrize("escape", ESCAPES, ids=lambda escape: escape.name)
def test_an_attempt_succeeds_without_the_sandbox_and_fails_in_it(
    escape: Escape, without: dict[str, str], inside: dict[str, str]
) -> None:
    if escape.outside == "yes" or (escape.outside == "root" and os.geteuid() == 0):
        assert without[escape.name] == "ESCAPED"
    assert inside[escape.name] != "ESCAPED"


def test_a_program_reads_its_input_and_its_files_and_writes_to_its_folder(sandbox: Sandbox) -> None:
    code = "import sys; open('new', 'w').write(sys.stdin.read() + open('d/a').read()); print(open('new').read())"
    ran = sandbox.run([PYTHON, "-I", "-c", code], stdin="größer ", files={"d/a": "∑ 數"})
    assert (ran.output, ran.code, ran.ended_well) == ("größer ∑ 數\n", 0, True)
    assert sandbox.run(["/bin/sh", "-c", "ls"]).output == ""  # nothing of it is left


def test_how_a_program_ended_is_told(sandbox: Sandbox) -> None:
    assert sandbox.run(["/bin/sh", "-c", "exit 7"]).code == 7
    killed = sandbox.run(["/bin/sh", "-c", "kill -SEGV $$"])
    assert (killed.code, killed.signal, killed.late) == (None, signal.SIGSEGV, False)
    loud = sandbox.run(["/bin/sh", "-c", "yes"])
    assert (loud.ended_well, loud.cut, len(loud.output)) == (False, True, 4096)
    with pytest.raises(SandboxRefused, match="refused at starting /no/such/program: No such file or directory"):
        sandbox.run(["/no/such/program"])


@pytest.mark.parametrize("mode", ["required", NONE])
def test_a_program_that_attacks_its_watchers_has_ended_badly_and_is_nobodys_failure(
    mode: str, request: pytest.FixtureRequest
) -> None:
    if mode != NONE:
        request.getfixturevalue("sandbox")
    box = Sandbox(mode, LIMITS, [sys.base_prefix])
    for number in (signal.SIGINT, signal.SIGKILL):
        watcher = 1 if mode != NONE else "os.getppid()"
        code = f"import os, time\ntry: os.kill({watcher}, {int(number)})\nfinally: time.sleep(0.2)"
        ran = box.run([PYTHON, "-I", "-S", "-c", code])
        assert not ran.ended_well or (mode != NONE and number == signal.SIGINT)
    everything = "import os, signal\nos.setsid() if os.getsid(0) != os.getpid() else 0\nos.kill(0, 9)"
    assert box.run([PYTHON, "-I", "-S", "-c", everything]).signal == signal.SIGKILL


def test_a_kernel_that_does_not_tell_what_belongs_together_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(program, "can_look", lambda: False)
    with pytest.raises(
        UserError, match=r"the sandbox is refused at memory: .*; sandbox=none runs programs with all rights"
    ):
        Sandbox()


_FAMILY = """
import os, time
held = bytearray(b"a") * ({own} << 20)
for _ in range(8):
    if os.fork() == 0:
        if {touched}:
            held[::4096] = b"x" * len(held[::4096])
        time.sleep({seconds})
        os._exit(0)
for _ in range(8):
    os.wait()
"""


def test_processes_that_hold_too_much_memory_together_are_killed_and_what_they_share_counts_once(
    sandbox: Sandbox,
) -> None:
    box = Sandbox(limits=Limits(wall_s=20.0, memory_mb=200), readable=[sys.base_prefix])
    greedy = box.run([PYTHON, "-I", "-S", "-c", _FAMILY.format(own=50, touched=True, seconds=15)])
    assert (greedy.signal, greedy.late, greedy.ended_well) == (signal.SIGKILL, False, False)
    modest = box.run([PYTHON, "-I", "-S", "-c", _FAMILY.format(own=50, touched=False, seconds=0.4)])
    assert modest.ended_well


_SHARED = """
import mmap, os, time
def shared():
    held = mmap.mmap(-1, 50 << 20)  # of no file, and shared: with nobody, or with all that are forked later
    held[:] = b"a" * len(held)
    return held
held = None if {apart} else shared()
for _ in range(8):
    if os.fork() == 0:
        held = held or shared()
        held[::4096] = b"x" * len(held[::4096])
        time.sleep({seconds})
        os._exit(0)
for _ in range(8):
    os.wait()
"""


def test_shared_memory_of_no_file_counts_among_what_processes_hold_together_and_once(sandbox: Sandbox) -> None:
    box = Sandbox(limits=Limits(wall_s=20.0, memory_mb=200), readable=[sys.base_prefix])
    greedy = box.run([PYTHON, "-I", "-S", "-c", _SHARED.format(apart=True, seconds=15)])
    assert (greedy.signal, greedy.late, greedy.ended_well) == (signal.SIGKILL, False, False)
    modest = box.run([PYTHON, "-I", "-S", "-c", _SHARED.format(apart=False, seconds=0.4)])
    assert modest.ended_well


def test_signals_are_for_a_program_what_they_are_in_a_shell(sandbox: Sandbox) -> None:
    """Python ignores SIGPIPE, and what it starts would inherit that: `yes` would complain, not end."""
    ran = sandbox.run(["/bin/sh", "-c", "yes | head -n 1"])
    assert (ran.output, ran.errors, ran.code) == ("y\n", "", 0)


def test_the_end_of_a_program_is_waited_for_and_not_looked_for_now_and_then(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    naps: list[float] = []
    monkeypatch.setattr(subprocess, "time", SimpleNamespace(sleep=naps.append))
    assert sandbox.run(["/bin/sleep", "0.1"]).ended_well
    assert naps == []


def test_an_older_kernel_tells_the_end_of_a_program_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(pid: int) -> int:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(os, "pidfd_open", unknown)
    assert Sandbox(NONE, replace(LIMITS, wall_s=5.0)).run(["/bin/true"]).ended_well
    assert Sandbox(NONE, replace(LIMITS, wall_s=0.5)).run(["/bin/sleep", "9"]).late


@pytest.mark.parametrize("mode", ["required", NONE])
def test_processor_time_and_wall_time_end_a_program_and_all_that_it_started(
    mode: str, request: pytest.FixtureRequest
) -> None:
    if mode != NONE:
        request.getfixturevalue("sandbox")
    quick = Sandbox(mode, Limits(wall_s=15.0, cpu_s=1), [sys.base_prefix])
    busy = quick.run([PYTHON, "-I", "-S", "-c", "while True: pass"])
    assert (busy.signal, busy.late) == (signal.SIGXCPU, False)
    mark = f"{time.time():.6f}"  # shows in the arguments of what it starts
    short = Sandbox(mode, Limits(wall_s=1.0), [sys.base_prefix])
    started = time.monotonic()
    slow = short.run(["/bin/sh", "-c", f"sleep 3{mark} & sleep 4{mark}"])
    assert (slow.code, slow.signal, slow.late) == (None, signal.SIGKILL, True)
    assert 1.0 <= time.monotonic() - started < 15.0
    deadline = time.monotonic() + 10.0
    while any(mark in " ".join(one.info["cmdline"] or ()) for one in psutil.process_iter(["cmdline"])):
        assert time.monotonic() < deadline, "something of it is still running"
        time.sleep(0.05)


def test_without_a_sandbox_the_limits_hold_and_nothing_else() -> None:
    none = Sandbox(NONE, LIMITS)
    code = "import mmap\nprint(open('/etc/passwd').readable())\nmmap.mmap(-1, 2 << 30)"
    ran = none.run([PYTHON, "-I", "-S", "-c", code])
    assert ran.output == "True\n"
    assert "Cannot allocate memory" in ran.errors
    with pytest.raises(UserError, match="sandbox=maybe: must be required or none"):
        Sandbox("maybe")


_REFUSED = """
import sys; sys.path.append(sys.argv[1])
from rlscale.envs.sandbox import kernel
from rlscale.envs.sandbox.program import Sandbox
from rlscale.config.errors import UserError
kernel.no_new_privileges()
kernel.filter_system_calls([int(sys.argv[2])])
try:
    Sandbox()
except UserError as error:
    print(error)
"""


@pytest.mark.parametrize(
    ("part", "number"),
    [
        ("namespaces", machine_number(272, 97)),
        ("a root of its own", machine_number(155, 41)),
        ("Landlock", 444),
    ],
)
def test_what_the_kernel_does_not_give_is_refused_by_name(part: str, number: int, sandbox: Sandbox) -> None:
    """The kernel is made to refuse one call; seccomp does that for a process and its children."""
    command = [PYTHON, "-I", "-S", "-c", _REFUSED, str(Path(__file__).parents[4]), str(number)]
    said = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert said.stdout == (
        f"the sandbox is refused at {part}: Operation not permitted; sandbox=none runs programs with all rights of "
        "this process\n"
    ), said.stderr

"""Running a program that nobody has read: with limits, in a sandbox, and what came of it."""

from __future__ import annotations

import marshal
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from rlscale.config.errors import UserError
from rlscale.envs.sandbox.resident import can_look, holds_more

REQUIRED, NONE = "required", "none"
SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/etc/alternatives", "/etc/ld.so.cache")
"""What programs may read and start besides their own folder."""
_PACKAGE = str(Path(__file__).parents[3])
_START = "import sys; sys.path.append(sys.argv.pop(1)); from rlscale.envs.sandbox.confine import main; main()"
_LOOK_S = 0.1
"""Seconds between two looks at how much memory a program holds."""
_GRACE_S = 10.0
"""Seconds that a process may take to end once it has been killed, which on a busy machine is long."""


class SandboxRefused(OSError):
    """The kernel lacks a part of the sandbox, which the message names; nothing was run."""


@dataclass(frozen=True)
class Limits:
    """What a program may use. Past `wall_s` and `cpu_s` it is killed, and where its processes together hold more than
    `memory_mb`; of the others it gets no more than this."""

    wall_s: float = 10.0
    """Seconds from start to end."""
    cpu_s: int = 10
    """Seconds of processor time of each process."""
    memory_mb: int = 512
    """Address space of each process, in MiB, and what all of them hold together, which is looked at now and then."""
    disk_mb: int = 32
    """What its folder holds, in MiB, and also the most that it prints."""
    processes: int = 16
    """Processes and threads at a time; without a sandbox they are not counted."""
    output_kb: int = 256
    """What is read of its output and of its errors, in KiB each."""


@dataclass(frozen=True)
class Ran:
    """What came of a program."""

    code: int | None
    """Its exit code; None if it was killed."""
    signal: int | None
    """The signal that killed it; None otherwise. SIGKILL past its wall time and its memory."""
    late: bool
    """Whether it was killed for its wall time."""
    output: str
    errors: str
    cut: bool
    """Whether it printed more than is read."""
    seconds: float

    @property
    def ended_well(self) -> bool:
        """Whether it ended by itself with exit code 0."""
        return self.code == 0


class Sandbox:
    """Runs programs: `required` in the sandbox, `none` within the limits alone, with the rights of this process.

    In the sandbox a program has no network, not even loopback; of files it sees `SYSTEM` and `readable` (absolute
    paths), which it cannot change, and a folder of its own that is gone afterwards; no /proc, no other process.
    """

    def __init__(self, mode: str = REQUIRED, limits: Limits | None = None, readable: Sequence[str] = ()) -> None:
        """UserError with the part that this kernel lacks, by name, where the sandbox cannot be had."""
        if mode not in (REQUIRED, NONE):
            raise UserError(f"sandbox={mode}: must be {REQUIRED} or {NONE}")
        self._confined = mode == REQUIRED
        self._limits = limits or Limits()
        self._readable = [*dict.fromkeys((*SYSTEM, *readable))]
        if self._confined:
            try:
                if not can_look():
                    raise SandboxRefused("the sandbox is refused at memory: /proc does not tell a process's children")
                self.run(["/bin/true"])
            except SandboxRefused as error:
                raise UserError(f"{error}; sandbox={NONE} runs programs with all rights of this process") from None

    def run(self, command: Sequence[str], stdin: str = "", files: Mapping[str, str] | None = None) -> Ran:
        """Run a command, whose first word is an absolute path, in a folder with `files` (text by relative path).

        SandboxRefused where the kernel does not give a part of the sandbox, or the command cannot be started.
        """
        with ExitStack() as stack:
            folder = (
                None
                if self._confined
                else stack.enter_context(
                    tempfile.TemporaryDirectory(prefix="rlscale-program-", ignore_cleanup_errors=True)
                )
            )
            specification, taken, printed, errors = (stack.enter_context(tempfile.TemporaryFile()) for _ in range(4))
            specification.write(marshal.dumps(self._specification(command, files or {}, folder)))
            taken.write(stdin.encode("utf-8", "surrogatepass"))
            for file in (specification, taken):
                file.seek(0)
            reading, writing = os.pipe()
            status = stack.enter_context(os.fdopen(reading, "rb"))
            started = time.monotonic()
            numbers = (str(specification.fileno()), str(writing))
            try:
                process = subprocess.Popen(
                    [sys.executable, "-I", "-S", "-c", _START, _PACKAGE, *numbers],
                    stdin=taken,
                    stdout=printed,
                    stderr=errors,
                    pass_fds=[specification.fileno(), writing],
                    start_new_session=True,
                    env={},
                )
            finally:
                os.close(writing)
            ended, late = self._wait(process)
            seconds = time.monotonic() - started
            told = status.read().decode().splitlines() if ended else None
            (output, cut), (errors_text, errors_cut) = (self._text(file) for file in (printed, errors))
        code, number = _end_of(told, errors_text)
        return Ran(code, number, late, output, errors_text, cut or errors_cut, seconds)

    def _wait(self, process: subprocess.Popen[bytes]) -> tuple[bool, bool]:
        """Wait for the end, or bring it about: whether it came by itself, and whether it was too late."""
        deadline = time.monotonic() + self._limits.wall_s
        try:
            while (left := deadline - time.monotonic()) > 0:
                if _ended(process, min(left, _LOOK_S)):
                    return True, False
                if holds_more(process.pid, self._limits.memory_mb << 20):
                    return False, False
            return False, True
        finally:
            # Also what it left running: the sandbox dies with its first process, which is in this process group.
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait(_GRACE_S)

    def _text(self, file: IO[bytes]) -> tuple[str, bool]:
        most = self._limits.output_kb * 1024
        file.seek(0)
        found = file.read(most + 1)
        return found[:most].decode("utf-8", "replace"), len(found) > most

    def _specification(self, command: Sequence[str], files: Mapping[str, str], folder: str | None) -> dict[str, Any]:
        limits = self._limits
        home = folder or "/box"
        return {
            "confined": self._confined,
            "command": list(command),
            "files": dict(files),
            "folder": folder,
            "readable": self._readable,
            "environment": {
                "PATH": "/usr/local/bin:/usr/bin:/bin",
                "HOME": home,
                "TMPDIR": home,
                "LANG": "C.UTF-8",
                "OMP_NUM_THREADS": "1",
            },
            "cpu_s": limits.cpu_s,
            "memory_bytes": limits.memory_mb << 20,
            "disk_bytes": limits.disk_mb << 20,
            "files_most": 1000,
            "processes": limits.processes,
        }


def _end_of(told: Sequence[str] | None, errors: str) -> tuple[int | None, int | None]:
    """Exit code and signal by what the sandbox told, None where it was killed. SandboxRefused where nothing was run."""
    if told is None:
        return None, signal.SIGKILL
    for line in told:
        if line.startswith("refused "):
            raise SandboxRefused(f"the sandbox is refused at {line.removeprefix('refused ')}")
    if not told:
        raise SandboxRefused(f"the sandbox did not start: {errors[-300:].strip()}")
    kind, _, number = told[-1].partition(" ")
    if kind == "started":  # nobody was left to tell of the end: the program brought its watchers down
        return None, signal.SIGKILL
    return (int(number), None) if kind == "exit" else (None, int(number))


def _ended(process: subprocess.Popen[bytes], within_s: float) -> bool:
    """Whether it ended in time, told at once: Popen.wait, given a time, looks now and then and is up to 50 ms late."""
    try:
        watched = os.pidfd_open(process.pid)
    except OSError:  # before Linux 5.3
        with suppress(subprocess.TimeoutExpired):
            process.wait(within_s)
        return process.returncode is not None
    try:
        poll = select.poll()
        poll.register(watched, select.POLLIN)
        return bool(poll.poll(1000 * within_s))
    finally:
        os.close(watched)

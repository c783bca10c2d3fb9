"""What processes are doing: asked by a signal, each writes its stacks to its log, also in a deadlock.

Those that cannot be asked are read from outside, where that may be (`rlscale.serve.spied_stacks`).
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import re
import signal
import time
from collections.abc import Sequence
from pathlib import Path

_ASKED_BY = signal.SIGUSR2
_WRITTEN_S = 2.0
"""How long the stacks of all processes may take to be in their logs."""
_FRAME = re.compile(r'  File "(.*)", line (\d+) in (.*)')
_THREAD = re.compile(r"(Current thread|Thread) 0x")
_SPIED_FRAME = re.compile(r"    (\S.*) \((.*):(\d+)\)$", re.MULTILINE)
_SPIED = re.compile(r"Process (\d+): ")
_WAITING = ("threading.py", "selectors.py", "queue.py", "socket.py")
"""Files of Python's own in whose functions a thread waits: the frame below says for what."""
_IDLE = {
    ("worker.py", "main_loop"),  # an actor of Ray that waits for its next call
    ("runners.py", "run"),  # an event loop that waits for whatever comes first
    ("router.py", "start"),  # the router, which is no Python
    ("scheduler.py", "on_idle"),  # of an engine that has no requests
    ("detokenizer_manager.py", "event_loop"),
    ("process_worker.py", "next_call"),  # of a reward, or an object of its own
    ("resource_tracker.py", "main"),  # of multiprocessing, beside whoever spawns
}
"""Where a process waits to be given something to do: file and function."""
_LOOP_WAITS = [("selectors.py", "select"), ("base_events.py", "_run_once")]
"""The innermost frames of an event loop of Python's own that waits for whatever comes first."""
_IDLE_FRAMES = 4
"""How many frames of a stack are looked at for that, from the innermost on."""


def tell_stacks() -> None:
    """From now on this process, and what is forked from it, writes the stacks of its threads to its standard error
    when it is asked."""
    faulthandler.register(_ASKED_BY, file=2, all_threads=True)


def ask(pids: Sequence[int]) -> list[int]:
    """Ask these processes of this machine, and tell which were asked.

    Not those that have never called `tell_stacks`, which the signal would end.
    """
    asked = []
    for pid in pids:
        with contextlib.suppress(OSError):
            if _can_tell(pid):
                os.kill(pid, _ASKED_BY)
                asked.append(pid)
    return asked


def _can_tell(pid: int) -> bool:
    """Whether the process has a handler of the signal."""
    told = Path(f"/proc/{pid}/status").read_text()
    caught = int(re.search(r"^SigCgt:\s*(\w+)$", told, re.MULTILINE)[1], 16)  # type: ignore[index]
    return bool(caught >> (_ASKED_BY - 1) & 1)


class Listening:
    """Takes from log files what is appended to them while it listens."""

    def __init__(self, logs: dict[str, Path]) -> None:
        """`logs` by the name of the process."""
        self._from = {name: (log, log.stat().st_size) for name, log in logs.items() if log.is_file()}

    def heard(self) -> dict[str, str]:
        """Stacks by the name of the process, once all are there, or as far as they are after a moment."""
        give_up = time.monotonic() + _WRITTEN_S
        while len(found := self._appended()) < len(self._from) and time.monotonic() < give_up:
            time.sleep(0.05)
        time.sleep(0.1)  # one that has begun has ended by then
        return self._appended() or found

    def _appended(self) -> dict[str, str]:
        found = {}
        for name, (log, size) in self._from.items():
            with log.open("rb") as file:
                file.seek(size)
                text = file.read().decode(errors="replace")
            if (start := _THREAD.search(text)) is not None:
                found[name] = text[start.start() :]
        return found


def doing(stacks: str) -> str | None:
    """The function that the main thread is in: `all_reduce (distributed_c10d.py:2806)`.

    None for a process that waits to be given something to do. Takes what a process wrote, and what py-spy read.
    """
    frames = _frames_of_main(stacks)
    if [(file, function) for file, _, function in frames[:2]] == _LOOP_WAITS:
        return None
    if not frames or any((file, function) in _IDLE for file, _, function in frames[:_IDLE_FRAMES]):
        return None
    file, line, function = next((frame for frame in frames if frame[0] not in _WAITING), frames[0])
    return f"{function} ({file}:{line})"


def _frames_of_main(stacks: str) -> list[tuple[str, str, str]]:
    """(file, line, function) of the main thread, the innermost first."""
    if (process := _SPIED.match(stacks)) is not None:
        threads = stacks.split("\nThread ")
        # Nobody has named the only thread of a program that knows of no threads.
        main = [text for text in threads[1:] if '"MainThread"' in text or text.startswith(f"{process[1]} ")]
        frames = _SPIED_FRAME.findall(main[0]) if main else []
        found = [(file, line, function.rpartition(".")[2]) for function, file, line in frames]
    else:
        frames = _FRAME.findall(_THREAD.split(stacks)[-1])  # it is written last
        found = [(file, line, function) for file, line, function in frames]
    return [(Path(file).name, line, function) for file, line, function in found]

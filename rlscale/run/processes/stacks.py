"""What the processes of a run are doing: asked by a signal, each writes its stacks to its log, also in a deadlock."""

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
_WAITING = ("threading.py", "selectors.py", "queue.py", "socket.py")
"""Files of Python's own in whose functions a thread waits: the frame below says for what."""
_IDLE = ("worker.py", "main_loop")
"""Where Ray waits for the next call of an actor."""


def tell_stacks() -> None:
    """From now on this process writes the stacks of all its threads to its standard error when it is asked."""
    faulthandler.register(_ASKED_BY, file=2, all_threads=True)


def ask(pids: Sequence[int]) -> None:
    """Ask these processes of this machine, which have called `tell_stacks`."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, _ASKED_BY)


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
    """The function that the main thread, which is written last, is in: `all_reduce (distributed_c10d.py:2806)`.

    None for an actor that waits to be called.
    """
    main = _THREAD.split(stacks)[-1]
    frames = [(Path(file).name, line, function) for file, line, function in _FRAME.findall(main)]
    told = [frame for frame in frames if frame[0] not in _WAITING] or frames
    if not told or (told[0][0], told[0][2]) == _IDLE:
        return None
    file, line, function = told[0]
    return f"{function} ({file}:{line})"

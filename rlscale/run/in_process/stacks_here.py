"""What a run that is one process does when a deadline has passed: what its calls wait for, its threads, its servers."""

from __future__ import annotations

import asyncio
import faulthandler
import os
import tempfile
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from types import FrameType
from typing import Any

import psutil

from rlscale.platform.stacks import doing
from rlscale.run.processes.actor_processes import Processes, told_apart, write_down
from rlscale.run.processes.stacks_of_actors import of_fleet
from rlscale.serve.spied_stacks import spied_families

_ANSWER_S = 10.0
"""How long those that supervise servers may take to tell what these do."""
_TASKS, _THREADS = "tasks of the run", "threads of the run"
_SERVING = ".rlscale.serve."
"""In the command line of a server, its guard and what it is forked from: servers are told of by who supervises them."""
_OF_ASYNCIO = Path(asyncio.__file__).parent


class ProcessesHere(Processes):
    """No actor has a process of its own. Servers have, and rewards."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        calls: Mapping[asyncio.Task[Any], Any],
        answers: Callable[[Collection[Any], float], list[Any]],
    ) -> None:
        """`calls`: those on the loop that are not back, with the handles of their actors.

        `answers` waits for calls, at most so many seconds, and gives what came of those that are back by then.
        """
        super().__init__("here")
        self._loop, self._calls, self._answers = loop, calls, answers
        self._names: dict[Any, str] = {}
        self._launchers: list[Any] = []

    def add(self, name: str, log: Path, actor: Any, *, servers: bool = False) -> None:
        """See Processes. There is nothing to watch; the name says who waits."""
        self._names[actor] = told_apart(name, log, self._names.values())
        if servers:
            self._launchers.append(actor)

    def forget(self, actors: Collection[Any], wait_s: float = 0.0) -> None:
        """See Processes."""
        self._names = {actor: name for actor, name in self._names.items() if actor not in actors}
        self._launchers = [launcher for launcher in self._launchers if launcher not in actors]

    def write_stacks(self, folder: Path) -> dict[str, str]:
        """See Processes. Of this process: where each task of the loop waits, and the stacks of its threads."""
        said: dict[str, str] = {}
        for call, actor in self._calls.items():
            if (where := _where(call)) is not None:
                name = self._names.get(actor, "the run")
                said[name] = f"{said[name]} and in {where}" if name in said else where
        here = {_TASKS: "\n".join(_task(one) for one in asyncio.all_tasks(self._loop)), _THREADS: _threads()}
        others = self._servers() | _rewards()
        write_down(folder, here | others)
        return said | {name: what for name, stacks in others.items() if (what := doing(stacks)) is not None}

    def _servers(self) -> dict[str, str]:
        """The stacks of the servers' processes, as far as they can be told."""
        found: dict[str, str] = {}
        for launcher in self._launchers:
            for told in self._answers([launcher.stacks.remote()], _ANSWER_S / len(self._launchers)):
                found |= of_fleet(self._names[launcher], told)
        return found


def _rewards() -> dict[str, str]:
    """What is read of the processes below this one that serve nothing."""
    try:
        children = [child.pid for child in psutil.Process().children() if not _serves(child)]
    except psutil.Error:
        return {}
    families = spied_families(children).values()
    return {f"process {pid} of the run": stacks for family in families for pid, stacks in family.items()}


def _serves(process: psutil.Process) -> bool:
    """Whether a process is a server, a guard or a fork server; also where it has ended."""
    try:
        words = process.cmdline()
    except psutil.Error:
        return True
    return any(_SERVING in f".{word.replace(os.sep, '.')}." for word in words)


def _threads() -> str:
    """The stacks of this process's threads, as faulthandler writes them."""
    with tempfile.TemporaryFile() as file:
        faulthandler.dump_traceback(file, all_threads=True)
        file.seek(0)
        return file.read().decode(errors="replace")


def _awaited(task: asyncio.Task[Any]) -> list[FrameType]:
    """The frames in which a task waits, the innermost first: of its coroutine and of all that those wait for."""
    frames: list[FrameType] = []
    one: Any = task.get_coro()
    while one is not None:
        frame = getattr(one, "cr_frame", None) or getattr(one, "gi_frame", None)
        if frame is not None:
            frames.append(frame)
        one = getattr(one, "cr_await", None) or getattr(one, "gi_yieldfrom", None)
    return frames[::-1]


def _task(task: asyncio.Task[Any]) -> str:
    """A task's stack, in the words of faulthandler."""
    lines = [
        f'  File "{frame.f_code.co_filename}", line {frame.f_lineno} in {frame.f_code.co_name}'
        for frame in _awaited(task)
    ]
    return "\n".join([f"Task {task.get_name()} (most recent call first):", *lines, ""])


def _where(task: asyncio.Task[Any]) -> str | None:
    """Where a task waits, past asyncio's own functions: `next_batch (service.py:12)`. None of one that is done."""
    for frame in _awaited(task):
        file = Path(frame.f_code.co_filename)
        if file.parent != _OF_ASYNCIO:
            return f"{frame.f_code.co_name} ({file.name}:{frame.f_lineno})"
    return None

"""A fork of pytest's process, as that process sees it, and what has to be so before it forks."""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from multiprocessing.context import ForkProcess
from pathlib import Path

import pytest

END_S = 30.0
"""A fork without further tests is given so long to end fixtures, threads and children; then it is killed."""
_READY_FOR_FORKS = ("jemalloc_bg_thd",)
"""Threads of libraries that see to forks themselves: pyarrow's allocator has one."""


@dataclass
class Worker:
    """A fork, what it was given, and how far it is."""

    process: ForkProcess
    pipe: Connection
    waiting: deque[int] = field(default_factory=deque)
    """Numbers of tests that were given to it and have not begun."""
    at: int | None = None
    last: str = ""
    """The test that it began last."""
    folder: Path | None = None
    dismissed: float | None = None
    """When it asked for further tests and was given none."""

    @property
    def gone(self) -> bool:
        """Whether it has ended and nothing that it said is unread, though a child of it may keep the pipe open."""
        return self.process.exitcode is not None and not self.pipe.poll()

    @property
    def late(self) -> bool:
        """Whether it has had no tests for END_S."""
        return self.dismissed is not None and time.monotonic() > self.dismissed + END_S

    def end(self) -> str:
        """See to it that it is gone, within END_S; how it ended."""
        self.pipe.close()
        self.process.join(0 if self.late else END_S)
        if self.process.exitcode is None:
            self.process.kill()
            self.process.join()
            return f"did not end within {END_S:g} s"
        return f"ended with status {self.process.exitcode}"


def refuse_threads() -> None:
    """UsageError where this process has threads: a lock that one of them holds would stay locked in a fork."""
    tasks = [task for task in Path("/proc/self/task").glob("*") if task.name != str(os.getpid())]
    names = {(task / "comm").read_text().strip() for task in tasks}.difference(_READY_FOR_FORKS)
    names |= {thread.name for thread in threading.enumerate() if thread is not threading.main_thread()}
    if names:
        raise pytest.UsageError(
            f"--forks: there are threads once the tests are imported ({', '.join(sorted(names))}), which no fork would "
            "have: set OMP_NUM_THREADS=1, and start threads within tests"
        )

"""Pytest with --forks=N: everything is imported and collected once, then N forks of that process run the tests.

Each process of xdist imports and collects for itself. Here files are handed out one by one. The tests of a file stay
together, for their fixtures, and a fork goes on in the folder that it is at, for what modules have remembered there;
the files that `begin_with` names come before all others. Forks begin without threads and with all that the tests
import: a test that needs a Python which has imported nothing starts one, as everywhere.
"""

from __future__ import annotations

import multiprocessing
import os
import warnings
from collections import deque
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkProcess
from pathlib import Path
from typing import Any

import pytest
from _pytest.runner import runtestprotocol

from tests.file_order import FIRST

FORK = multiprocessing.get_context("fork")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Without the option nothing of this happens."""
    parser.addoption("--forks", type=int, default=0, metavar="N", help="share the test files out to N forks")


def pytest_configure(config: pytest.Config) -> None:
    """See Forks."""
    if config.getoption("--forks"):
        config.pluginmanager.register(Forks(config.getoption("--forks")), "forks")


@dataclass
class Worker:
    """A fork as the process that hands out sees it."""

    process: ForkProcess
    pipe: Connection
    waiting: deque[int] = field(default_factory=deque)
    """Numbers of tests that were given to it and have not begun."""
    at: int | None = None
    folder: Path | None = None


def preferred(folders: Sequence[Path | None], at: Path | None, others: Collection[Path | None]) -> int:
    """Which of the files left, given by their folders, a fork takes next.

    The first if it has no folder, as one that goes before others; then one of the folder that the fork is at, of a
    folder that no other fork is at, or any.
    """
    if folders[0] is None:
        return 0
    own = (number for number, folder in enumerate(folders) if folder == at)
    free = (number for number, folder in enumerate(folders) if folder is not None and folder not in others)
    return next(own, next(free, 0))


class Forks:
    """The plugin, in the process that hands out files and in those that run them."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.workers: list[Worker] = []
        self.parent: Connection | None = None
        """Whom a fork tells what comes of its tests."""
        self.enough = FORK.Event()
        """No further test begins."""

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool | None:
        """Have forks run the tests, and report what they say as if it had happened here."""
        if session.testsfailed or session.config.option.collectonly:
            return None
        if terminal := session.config.pluginmanager.getplugin("terminalreporter"):
            terminal.showfspath = False  # the files' results alternate
        folder = session.config._tmp_path_factory.getbasetemp()
        by_file = groupby(range(len(session.items)), lambda number: session.items[number].path)
        files = deque([*numbers] for _, numbers in by_file)
        for number in range(min(self.number, len(files))):
            self._fork(session, folder / f"fork{number}")
        try:
            while self.workers:
                said = wait([worker.pipe for worker in self.workers])
                for worker in [worker for worker in self.workers if worker.pipe in said]:
                    self._hear(session, worker, files)
        finally:
            self.enough.set()
            for worker in self.workers:
                worker.pipe.close()
                worker.process.join()
        if session.shouldfail:
            raise session.Failed(session.shouldfail)
        if session.shouldstop:
            raise session.Interrupted(session.shouldstop)
        return True

    def _fork(self, session: pytest.Session, folder: Path) -> None:
        ours, theirs = FORK.Pipe()
        process = FORK.Process(target=self._run_files, args=(session, ours, theirs, folder), name=folder.name)
        process.start()
        theirs.close()
        self.workers.append(Worker(process, ours))

    def _hear(self, session: pytest.Session, worker: Worker, files: deque[list[int]]) -> None:
        """What a fork says. One that is gone has failed its test, and another takes those that it was to run."""
        try:
            kind, said = worker.pipe.recv()
        except (EOFError, ConnectionResetError):
            self._part_with(session, worker, files)
            return
        hook = session.config.hook
        if kind == "next":
            given = self._next(session, worker, files) if files and not self.enough.is_set() else []
            worker.waiting.extend(given)
            worker.pipe.send(given)
        elif kind == "begins":
            worker.at = worker.waiting.popleft()
            hook.pytest_runtest_logstart(nodeid=said, location=session.items[worker.at].location)
        elif kind == "report":
            hook.pytest_runtest_logreport(report=hook.pytest_report_from_serializable(config=session.config, data=said))
        elif kind == "ended":
            hook.pytest_runtest_logfinish(nodeid=said, location=session.items[worker.at].location)
            worker.at = None
        elif kind == "warning":
            hook.pytest_warning_recorded.call_historic(kwargs=said)
        if session.shouldfail or session.shouldstop:
            self.enough.set()

    def _next(self, session: pytest.Session, worker: Worker, files: deque[list[int]]) -> list[int]:
        first = session.config.stash.get(FIRST, ())
        paths = [session.items[numbers[0]].path for numbers in files]
        folders = [None if path.name in first else self._folder(session, path) for path in paths]
        chosen = preferred(folders, worker.folder, {other.folder for other in self.workers if other is not worker})
        worker.folder = self._folder(session, paths[chosen])
        given = files[chosen]
        del files[chosen]
        return given

    def _folder(self, session: pytest.Session, path: Path) -> Path:
        """That of a tier in which a file lies, as `tests/unit/config`."""
        return Path(*Path(os.path.relpath(path.parent, session.config.rootpath)).parts[:3])

    def _part_with(self, session: pytest.Session, worker: Worker, files: deque[list[int]]) -> None:
        self.workers.remove(worker)
        worker.pipe.close()
        worker.process.join()
        if worker.at is None and not worker.process.exitcode:
            return
        item = session.items[worker.waiting.popleft() if worker.at is None else worker.at]
        why = f"the process that ran it ended with status {worker.process.exitcode}"
        lost = pytest.TestReport(item.nodeid, item.location, {}, "failed", why, "call")
        session.config.hook.pytest_runtest_logreport(report=lost)
        if worker.waiting:
            files.appendleft([*worker.waiting])
        self._fork(session, session.config._tmp_path_factory.getbasetemp() / f"{worker.process.name}-again")

    def _run_files(self, session: pytest.Session, parents: Connection, parent: Connection, folder: Path) -> None:
        """In the fork: run what the parent gives, with a capture and a folder for tests of its own."""
        for inherited in (parents, *(worker.pipe for worker in self.workers)):
            inherited.close()  # otherwise nobody would notice that the parent is gone
        self.parent = parent
        capture = session.config.pluginmanager.getplugin("capturemanager")
        capture.stop_global_capturing()
        capture.start_global_capturing()
        capture.suspend_global_capture()
        folder.mkdir()
        session.config._tmp_path_factory._basetemp = folder
        numbers = self._given()
        at = next(numbers, None)
        while at is not None:
            following = None if self.enough.is_set() else next(numbers, None)
            item, after = session.items[at], None if following is None else session.items[following]
            self._say("begins", item.nodeid)
            item.config.hook.pytest_runtest_protocol(item=item, nextitem=after)
            self._say("ended", item.nodeid)
            at = following

    def _given(self) -> Iterator[int]:
        self._say("next")
        while numbers := self.parent.recv():
            yield from numbers
            self._say("next")

    def _say(self, kind: str, said: Any = None) -> None:
        self.parent.send((kind, said))

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item, nextitem: pytest.Item | None) -> bool | None:
        """In a fork the parent reports what came of a test."""
        if self.parent is None:
            return None
        for report in runtestprotocol(item, log=False, nextitem=nextitem):
            self._say("report", item.config.hook.pytest_report_to_serializable(config=item.config, report=report))
        return True

    def pytest_warning_recorded(
        self, warning_message: warnings.WarningMessage, when: str, nodeid: str, location: tuple[str, int, str] | None
    ) -> None:
        """In a fork the parent counts the warnings of its tests; their classes need not be known to pickle."""
        if self.parent is None:
            return
        kind = next(kind for kind in warning_message.category.__mro__ if kind.__module__ == "builtins")
        text = str(warning_message.message)
        plain = warnings.WarningMessage(text, kind, warning_message.filename, warning_message.lineno)
        self._say("warning", {"warning_message": plain, "when": when, "nodeid": nodeid, "location": location})

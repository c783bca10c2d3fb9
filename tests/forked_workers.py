"""Pytest with --forks=N: everything is imported and collected once, then N forks of that process run the tests.

Each process of xdist imports and collects for itself. Here files are handed out one by one. The tests of a file stay
together, for their fixtures, and a fork goes on in the folder that it is at, for what modules have remembered there;
the files that `begin_with` names come before all others. Forks begin without threads and with all that the tests
import: a test that needs a Python which has imported nothing starts one, as everywhere.

A test counts as run when its fork has said so. What becomes of the others: the test at which a fork ends has failed;
those that it had before it are given to another; and what no fork has run when all are gone has failed.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import time
import warnings
from collections import deque
from collections.abc import Collection, Sequence
from contextlib import suppress
from itertools import groupby, zip_longest
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import pytest
from _pytest.runner import runtestprotocol

from tests.file_order import FIRST
from tests.fork_handle import Worker, refuse_threads

FORK = multiprocessing.get_context("fork")
LOOK_S = 1.0
"""How often it is looked whether forks are there."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Without the option nothing of this happens."""
    parser.addoption("--forks", type=int, default=0, metavar="N", help="share the test files out to N forks")


def pytest_configure(config: pytest.Config) -> None:
    """See Forks."""
    if config.getoption("--forks"):
        config.pluginmanager.register(Forks(config.getoption("--forks")), "forks")


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
        self.begun = 0
        self.workers: list[Worker] = []
        self.parent: Connection | None = None
        """Whom a fork tells what comes of its tests."""
        self.enough = FORK.RawValue(ctypes.c_bool, False)
        """No further test begins. Without a lock, which a fork that is killed would keep."""
        self.missing: set[int] = set()
        """Numbers of the tests of which nothing is known yet."""

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool | None:
        """Have forks run the tests, and report what they say as if it had happened here."""
        if session.testsfailed or session.config.option.collectonly:
            return None
        refuse_threads()
        if terminal := session.config.pluginmanager.getplugin("terminalreporter"):
            terminal.showfspath = False  # the files' results alternate
        by_file = groupby(range(len(session.items)), lambda number: session.items[number].path)
        files = deque([*numbers] for _, numbers in by_file)
        self.missing = {*range(len(session.items))}
        for _ in range(min(self.number, len(files))):
            self._fork(session)
        try:
            self._listen(session, files)
        finally:
            self.enough.value = True
            for worker in self.workers:
                worker.end()
        if session.shouldfail:
            raise session.Failed(session.shouldfail)
        if session.shouldstop:
            raise session.Interrupted(session.shouldstop)
        return True

    def _listen(self, session: pytest.Session, files: deque[list[int]]) -> None:
        """Until no fork is there; tests of which nothing was heard by then have failed."""
        while self.workers:
            said = wait([worker.pipe for worker in self.workers], LOOK_S)
            for worker in [*self.workers]:
                if worker.pipe in said:
                    self._hear(session, worker, files)
                elif worker.gone or worker.late:
                    self._part_with(session, worker, files)
                if session.shouldfail or session.shouldstop:
                    self.enough.value = True
        for number in sorted(self.missing if not self.enough.value else ()):
            self._lose(session, number, "no process has run it")

    def _fork(self, session: pytest.Session) -> None:
        folder = session.config._tmp_path_factory.getbasetemp() / f"fork{self.begun}"
        self.begun += 1
        ours, theirs = FORK.Pipe()
        process = FORK.Process(target=self._run_files, args=(session, ours, theirs, folder), name=folder.name)
        process.start()
        theirs.close()
        self.workers.append(Worker(process, ours))

    def _hear(self, session: pytest.Session, worker: Worker, files: deque[list[int]]) -> None:
        try:
            kind, said = worker.pipe.recv()
        except (EOFError, OSError):
            self._part_with(session, worker, files)
            return
        hook = session.config.hook
        if kind == "next":
            given = self._next(session, worker, files) if files and not self.enough.value else []
            worker.waiting.extend(given)
            worker.dismissed = None if given else time.monotonic()
            with suppress(OSError):  # it is gone, which is what it says next
                worker.pipe.send(given)
        elif kind == "begins":
            worker.at, worker.last = worker.waiting.popleft(), said
            hook.pytest_runtest_logstart(nodeid=said, location=session.items[worker.at].location)
        elif kind == "reports":
            for one in said:
                read = hook.pytest_report_from_serializable(config=session.config, data=one)
                hook.pytest_runtest_logreport(report=read)
        elif kind == "ended":
            hook.pytest_runtest_logfinish(nodeid=said, location=session.items[worker.at].location)
            self.missing.discard(worker.at)
            worker.at = None
        elif kind == "warning":
            hook.pytest_warning_recorded.call_historic(kwargs=said)

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
        """The test of a fork that is gone has failed; another takes those that it was to run."""
        self.workers.remove(worker)
        how = worker.end()
        if worker.at is not None:
            self._lose(session, worker.at, f"the process that ran it {how}")
        elif worker.dismissed is None or worker.process.exitcode:
            name = worker.process.name
            why = f"{name} {how}, after {worker.last or 'no test'}"
            odd = pytest.TestReport(name, (name, None, name), {}, "failed", why, "teardown")
            session.config.hook.pytest_runtest_logreport(report=odd)
        if worker.waiting:
            files.appendleft([*worker.waiting])
        if files and worker.last and not self.enough.value:  # one that came to no test would not be the last
            self._fork(session)

    def _lose(self, session: pytest.Session, number: int, why: str) -> None:
        item = session.items[number]
        self.missing.discard(number)
        lost = pytest.TestReport(item.nodeid, item.location, {}, "failed", why, "call")
        session.config.hook.pytest_runtest_logreport(report=lost)

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
        while numbers := self._given():
            for number, following in zip_longest(numbers, numbers[1:]):
                item, over = session.items[number], following is None or self.enough.value
                self._say("begins", item.nodeid)
                # After a file's last test, before the next file is asked for, what is not the session's ends.
                after: Any = session if over else session.items[following]
                item.config.hook.pytest_runtest_protocol(item=item, nextitem=after)
                self._say("ended", item.nodeid)
                if over:
                    break
        session._setupstate.teardown_exact(None)

    def _given(self) -> list[int]:
        """The tests of the next file."""
        self._say("next")
        return self.parent.recv()

    def _say(self, kind: str, said: Any = None) -> None:
        self.parent.send((kind, said))

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item, nextitem: pytest.Item | None) -> bool | None:
        """In a fork the parent reports what came of a test."""
        if self.parent is None:
            return None
        reports = runtestprotocol(item, log=False, nextitem=nextitem)
        written = item.config.hook.pytest_report_to_serializable
        self._say("reports", [written(config=item.config, report=report) for report in reports])
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

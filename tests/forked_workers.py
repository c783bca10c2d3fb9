"""A pytest plugin: `-p tests.forked_workers --forks 3` collects once and runs the tests in forks of that process.

Processes that each start for themselves, as those of pytest-xdist do, each import every test file and all that it
needs, and send several messages for each test. Here the forks take whole files, one after another, from one queue, in
the order of collection, and send the reports that are counted.
"""

from __future__ import annotations

import itertools
import mmap
import multiprocessing
import os
import warnings
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

import pytest

_NUMBER = 4
"""Bytes of a file's number in the queue."""
_FORKING = multiprocessing.get_context("fork")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--forks", type=int, default=0, help="run the files of tests in this many forks of this process")


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop(session: pytest.Session) -> bool | None:
    """Run all tests in forks; left to pytest without --forks, and where there is nothing to run."""
    count = session.config.getoption("--forks")
    if count < 1 or session.config.option.collectonly or session.testsfailed:
        return None
    # One folder for all, made here so that pytest takes old ones away at the end of this process. pytest has no public
    # name for it; pytest-xdist takes it from there, too.
    session.config._tmp_path_factory.getbasetemp()  # type: ignore[attr-defined]
    Forks(session, count).run()
    return True


@dataclass
class _Fork:
    """One process."""

    process: BaseProcess
    waiting: deque[pytest.Item]
    """The tests that it has taken and not begun."""
    running: pytest.Item | None = None
    ended: bool = False
    """It has said that it is through."""


@dataclass(frozen=True)
class _Took:
    """A fork says that it took the file of this number."""

    number: int


@dataclass(frozen=True)
class _Warned:
    """A fork says that a test has warned: what pytest's hook for that is given."""

    given: dict[str, Any]


class Forks:
    """The forks of one session, as the process that they come from sees them."""

    def __init__(self, session: pytest.Session, count: int) -> None:
        self._session, self._hook = session, session.config.hook
        self._files = [list(items) for _, items in itertools.groupby(session.items, key=lambda item: item.path)]
        self._stop = mmap.mmap(-1, 1)  # shared with the forks: they begin no test once it holds something
        self._queue = _filled(len(self._files))
        self._forks: dict[Connection, _Fork] = {}
        self._begun = 0
        for _ in range(min(count, len(self._files))):
            self._start([])

    def run(self) -> None:
        """Hand on their reports until all have ended. It fails if tests are left that nobody ran."""
        try:
            while self._forks:
                for connection in wait([*self._forks]):
                    assert isinstance(connection, Connection)
                    self._receive(connection)
        finally:
            self._stop[0] = 1
            os.close(self._queue)
            for fork in self._forks.values():  # of a session that was interrupted
                fork.process.join(10.0)
                fork.process.terminate()
        if self._session.shouldstop:
            raise self._session.Interrupted(self._session.shouldstop)
        left = len(self._session.items) - self._begun
        if left and not self._session.shouldfail:
            self._session.shouldfail = f"{left} tests were not run"
        if self._session.shouldfail:
            raise self._session.Failed(self._session.shouldfail)

    def _start(self, first: Sequence[pytest.Item]) -> None:
        """Another fork, which begins with these tests."""
        receiving, sending = _FORKING.Pipe(duplex=False)
        work = _Work(self._session, self._files, first, self._queue, sending, self._stop)
        process = _FORKING.Process(target=work.run)
        process.start()
        sending.close()
        self._forks[receiving] = _Fork(process, deque(first))

    def _receive(self, connection: Connection) -> None:
        """One message of a fork: a file that it took, a test that it begins, a report, a warning, or its end."""
        fork = self._forks[connection]
        try:
            told = connection.recv()
        except EOFError:
            del self._forks[connection]
            fork.process.join()
            if not fork.ended:
                self._report_crash(fork)
            return
        if isinstance(told, _Took):
            fork.waiting.extend(self._files[told.number])
        elif isinstance(told, _Warned):
            self._hook.pytest_warning_recorded.call_historic(kwargs=told.given)
        elif told == "begins":
            fork.running = fork.waiting.popleft()
            self._begun += 1
        elif told == "ended":
            fork.ended = True
        else:
            report = self._hook.pytest_report_from_serializable(config=self._session.config, data=told)
            self._hook.pytest_runtest_logreport(report=report)
        if self._session.shouldfail or self._session.shouldstop:
            self._stop[0] = 1

    def _report_crash(self, fork: _Fork) -> None:
        """The test in which a process ended has failed; another process goes on behind it."""
        if fork.running is None:
            return  # the tests that nobody ran are counted in the end
        message = f"the process that ran it ended with exit code {fork.process.exitcode}"
        test = fork.running
        report = pytest.TestReport(test.nodeid, test.location, {}, "failed", message, "call")
        self._hook.pytest_runtest_logreport(report=report)
        self._start([*fork.waiting])


def _filled(files: int) -> int:
    """A pipe with the numbers of all files, which ends after them."""
    reading, writing = os.pipe()
    numbers = b"".join(number.to_bytes(_NUMBER, "little") for number in range(files))
    assert len(numbers) <= 1 << 16, "more than a pipe holds"
    os.write(writing, numbers)
    os.close(writing)
    return reading


@dataclass
class _Work:
    """What a fork does."""

    session: pytest.Session
    files: list[list[pytest.Item]]
    first: Sequence[pytest.Item]
    queue: int
    sending: Connection
    stop: mmap.mmap

    def run(self) -> None:
        """Run the tests that come first and those of the files that it takes, and send reports."""
        config = self.session.config
        capturing: Any = config.pluginmanager.getplugin("capturemanager")
        capturing.stop_global_capturing()  # into files that it would share with the other forks
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for stream in (1, 2):
            os.dup2(nowhere, stream)  # the terminal is that of the process which gets the reports
        capturing.start_global_capturing()
        sender = _Sender(config, self.sending)
        config.pluginmanager.register(sender)  # which is told the warnings of before
        sender.listens = True
        item = None
        for following in itertools.chain(self.first, self._taken(), [None]):
            if item is not None and not self.stop[0]:
                self.sending.send("begins")
                # The next file is taken before the last test of a file begins, which so knows what fixtures stay.
                config.hook.pytest_runtest_protocol(item=item, nextitem=following)
            item = following
        self.sending.send("ended")

    def _taken(self) -> Iterator[pytest.Item]:
        """The tests of one file after another, as long as the queue has some."""
        while number := os.read(self.queue, _NUMBER):
            taken = int.from_bytes(number, "little")
            self.sending.send(_Took(taken))
            yield from self.files[taken]


class _Sender:
    """Sends the reports that are counted or show something, and warnings."""

    def __init__(self, config: pytest.Config, sending: Connection) -> None:
        self._config, self._sending = config, sending
        self.listens = False

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" or not report.passed:
            self._sending.send(self._config.hook.pytest_report_to_serializable(config=self._config, report=report))

    def pytest_warning_recorded(
        self, warning_message: warnings.WarningMessage, when: str, nodeid: str, location: Any
    ) -> None:
        if not self.listens:
            return
        kind = next(kind for kind in warning_message.category.__mro__ if kind.__module__ == "builtins")
        where = warning_message.filename, warning_message.lineno
        shown = warnings.WarningMessage(str(warning_message.message), kind, *where)  # what any process can read
        given = {"warning_message": shown, "when": when, "nodeid": nodeid, "location": location}
        self._sending.send(_Warned(given))

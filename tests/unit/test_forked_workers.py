"""The plugin that shares test files out to forks: what pytest says of a folder with and without it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.forked_workers import preferred

ROOT = Path(__file__).parents[2]

FILES = {
    "test_first.py": """
import os, warnings
from pathlib import Path
import pytest
with open("imported", "a") as file:
    print("first", os.getpid(), file=file)

@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made")
    yield folder
    Path("ended").write_text(str(os.getpid()))

def test_passes(made):
    Path("pid").write_text(str(os.getpid()))
    warnings.warn("of a test", DeprecationWarning)

def test_stays_with_its_file(made):
    assert Path("pid").read_text() == str(os.getpid())

def test_fails():
    print("was printed")
    left = 1
    assert left == 2

def test_is_skipped():
    pytest.skip("for a reason")

@pytest.fixture
def broken():
    yield
    raise RuntimeError("at the end")

def test_with_an_error(broken):
    pass
""",
    "test_second.py": """
import os
with open("imported", "a") as file:
    print("second", os.getpid(), file=file)

def test_ends_its_process():
    os._exit(3)

def test_afterwards(tmp_path):
    assert os.getpid() != os.getppid()
""",
}


def told(folder: Path, *words: str, files: Mapping[str, str] = FILES, code: int = 1) -> list[str]:
    """The lines that pytest prints."""
    for name, text in files.items():
        (folder / name).write_text(text)
    asked = ["-p", "tests.forked_workers", "-p", "no:cacheprovider", "-c", os.devnull, "--rootdir=.", "-rA", *words]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "COLUMNS": "160"}
    with open(folder / "said", "w") as said:  # no pipe: what a test leaves behind would hold it open
        done = subprocess.run(
            [sys.executable, "-m", "pytest", *asked], cwd=folder, env=environment, stdout=said, stderr=said
        )
    lines = (folder / "said").read_text().splitlines()
    assert done.returncode == code, lines
    return lines


@pytest.fixture(scope="module")
def lines(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    folder = tmp_path_factory.mktemp("forked")
    return folder, told(folder, "--forks=2")


def test_every_outcome_is_told_as_without_forks(lines: tuple[Path, list[str]]) -> None:
    _, found = lines
    assert sorted(line for line in found if line.startswith(("PASSED", "SKIPPED", "FAILED", "ERROR"))) == [
        "ERROR test_first.py::test_with_an_error - RuntimeError: at the end",
        "FAILED test_first.py::test_fails - assert 1 == 2",
        "FAILED test_second.py::test_ends_its_process - the process that ran it ended with status 3",
        "PASSED test_first.py::test_passes",
        "PASSED test_first.py::test_stays_with_its_file",
        "PASSED test_first.py::test_with_an_error",
        "PASSED test_second.py::test_afterwards",
        "SKIPPED [1] test_first.py:27: for a reason",
    ]
    assert "was printed" in found
    assert any(line.endswith("DeprecationWarning: of a test") for line in found)
    assert " 2 failed, 4 passed, 1 skipped, 1 warning, 1 error in " in found[-1]


def test_a_test_whose_process_ends_has_failed_and_those_after_it_are_run(lines: tuple[Path, list[str]]) -> None:
    _, found = lines
    assert "PASSED test_second.py::test_afterwards" in found


def test_files_are_imported_once_and_run_whole_in_processes_that_did_not_import_them(
    lines: tuple[Path, list[str]],
) -> None:
    folder, _ = lines
    imported = [line.split() for line in (folder / "imported").read_text().splitlines()]
    assert [name for name, _ in imported] == ["first", "second"]
    (importing,) = {pid for _, pid in imported}
    ran = (folder / "pid").read_text()
    assert ran != importing
    assert (folder / "ended").read_text() == ran  # fixtures end where they were made


def test_after_as_many_failures_as_were_asked_for_no_file_begins(tmp_path: Path) -> None:
    found = told(tmp_path, "--forks=1", "-x")
    assert " 1 failed, " in found[-1]
    assert not any("test_second.py::" in line for line in found)


UNDISTURBED = {
    "test_a.py": """
import time
from pathlib import Path

def test_waits_for_the_other_files():
    deadline = time.monotonic() + 30
    while not (Path("b").exists() and Path("c").exists()):
        assert time.monotonic() < deadline
        time.sleep(0.01)
""",
    "test_b.py": """
import os, time
from pathlib import Path

def test_leaves_a_child():
    child = os.fork()
    if child == 0:
        time.sleep(60)
        os._exit(0)
    Path("b").write_text(str(child))
""",
    "test_c.py": """
from pathlib import Path

def test_c():
    Path("c").touch()
""",
}


def test_no_file_waits_for_a_fork_at_its_last_test_and_no_fork_for_the_children_of_its_tests(tmp_path: Path) -> None:
    found = told(tmp_path, "--forks=2", files=UNDISTURBED, code=0)
    assert " 3 passed in " in found[-1]
    os.kill(int((tmp_path / "b").read_text()), signal.SIGKILL)  # it is there, after all else


LINGERS = {
    "conftest.py": """
from tests import fork_handle
fork_handle.END_S = 0.2
""",
    "test_thread.py": """
import threading, time

def test_leaves_a_thread():
    threading.Thread(target=time.sleep, args=(60,)).start()
""",
}


def test_a_fork_that_does_not_end_is_killed_and_named(tmp_path: Path) -> None:
    found = told(tmp_path, "--forks=1", files=LINGERS)
    assert "ERROR fork0 - fork0 did not end within 0.2 s, after test_thread.py::test_leaves_a_thread" in found
    assert " 1 passed, 1 error in " in found[-1]


BETWEEN = {
    "conftest.py": """
import os, time
from tests.forked_workers import Forks

say, following = Forks._say, Forks._next

def say_and_end(self, kind, said=None):
    say(self, kind, said)
    if kind == "ended" and "test_then_ends_with" in said:
        os._exit(int(said[-1]))
    if kind == "next" and self.last == "test_asks_and_ends":
        os._exit(0)
    if kind == "begins":
        self.last = said.partition("::")[2]

def answer_late(self, *others):
    time.sleep(0.1)
    return following(self, *others)

Forks._say, Forks._next, Forks.last = say_and_end, answer_late, ""
""",
    "test_a.py": """
def test_then_ends_with_0(): pass
def test_then_ends_with_3(): pass
def test_after_them(): pass
""",
    "test_b.py": "def test_then_ends_with_4(): pass",
    "test_c.py": "def test_asks_and_ends(): pass",
    "test_d.py": "def test_last(): pass",
}


def test_a_fork_that_ends_between_tests_is_an_error_and_every_test_runs_once(tmp_path: Path) -> None:
    found = told(tmp_path, "--forks=1", files=BETWEEN)
    assert [line for line in found if line.startswith("ERROR")] == [
        "ERROR fork0 - fork0 ended with status 0, after test_a.py::test_then_ends_with_0",
        "ERROR fork1 - fork1 ended with status 3, after test_a.py::test_then_ends_with_3",
        "ERROR fork2 - fork2 ended with status 4, after test_b.py::test_then_ends_with_4",
        "ERROR fork3 - fork3 ended with status 0, after test_c.py::test_asks_and_ends",
    ]
    assert " 6 passed, 4 errors in " in found[-1]


NEVER = {
    "conftest.py": """
import os
from tests.forked_workers import Forks
Forks._run_files = lambda *_: os._exit(0)
""",
    "test_a.py": "def test_a(): pass",
    "test_b.py": "def test_b(): pass",
}


def test_what_no_fork_has_run_has_failed(tmp_path: Path) -> None:
    found = told(tmp_path, "--forks=2", files=NEVER)
    assert "FAILED test_a.py::test_a - no process has run it" in found
    assert "ERROR fork1 - fork1 ended with status 0, after no test" in found
    assert " 2 failed, 2 errors in " in found[-1]


THREADED = {
    "test_a.py": """
import threading, time
threading.Thread(target=time.sleep, args=(60,), name="begun by an import", daemon=True).start()

def test_a(): pass
""",
}


def test_a_process_with_threads_is_not_forked(tmp_path: Path) -> None:
    (line,) = (line for line in told(tmp_path, "--forks=1", files=THREADED, code=4) if line.startswith("ERROR: "))
    assert "there are threads once the tests are imported (begun by an import" in line


CONFIG, RUN, DATA = map(Path, ("config", "run", "data"))


@pytest.mark.parametrize(
    ("folders", "at", "others", "chosen"),
    [
        ([CONFIG, RUN, DATA], RUN, {RUN}, 1),
        ([CONFIG, RUN, DATA], None, {CONFIG}, 1),
        ([CONFIG, RUN], DATA, {CONFIG, RUN}, 0),
        ([None, RUN], RUN, set(), 0),
        ([CONFIG, None, RUN], RUN, {CONFIG}, 2),
    ],
    ids=["its own", "nobody's", "any", "what begins", "its own before what was left over"],
)
def test_a_fork_goes_on_in_its_folder(
    folders: list[Path | None], at: Path | None, others: set[Path | None], chosen: int
) -> None:
    assert preferred(folders, at, others) == chosen

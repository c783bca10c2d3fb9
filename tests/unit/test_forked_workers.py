"""The plugin that shares test files out to forks: what pytest says of a folder with and without it."""

from __future__ import annotations

import os
import subprocess
import sys
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


def told(folder: Path, *words: str) -> list[str]:
    """The lines that pytest prints."""
    for name, text in FILES.items():
        (folder / name).write_text(text)
    asked = ["-p", "tests.forked_workers", "-p", "no:cacheprovider", "-c", os.devnull, "--rootdir=.", "-rA", *words]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "COLUMNS": "160"}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *asked], cwd=folder, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 1, done.stderr
    return done.stdout.splitlines()


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

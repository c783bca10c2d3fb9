"""What the Makefile does before it installs anything, and with what it starts beside the unit tests and for them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

OLD_PYTHON = f"""#!{sys.executable}
import shutil, sys
from pathlib import Path
if sys.argv[1] == "-c":
    sys.version_info = (3, 10, 12)
    exec(sys.argv[2])
else:
    Path(".venv/bin").mkdir(parents=True)
    shutil.copy(__file__, ".venv/bin/python")
"""
"""An interpreter that answers as Python 3.10 would, and makes a venv of itself."""


def refused(folder: Path) -> str:
    """What `make install` says with an old `python3`."""
    shutil.copy(ROOT / "Makefile", folder)
    for name in ("requirements.lock", "pyproject.toml"):
        (folder / name).touch()
    old = folder / "python3.10"
    old.write_text(OLD_PYTHON)
    old.chmod(0o755)
    done = subprocess.run(["make", "install", f"PYTHON={old}"], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 2
    return done.stderr


def test_an_old_python_is_refused_before_a_venv_is_made_of_it(tmp_path: Path) -> None:
    assert "rlscale needs Python 3.11 or newer: make PYTHON=python3.11\n" in refused(tmp_path)
    assert not (tmp_path / ".venv").exists()


def test_a_venv_of_an_old_python_is_named_as_what_to_remove(tmp_path: Path) -> None:
    (tmp_path / ".venv/bin").mkdir(parents=True)
    (tmp_path / ".venv/bin/python").write_text(OLD_PYTHON)
    (tmp_path / ".venv/bin/python").chmod(0o755)
    assert "rlscale needs Python 3.11 or newer: make clean and make PYTHON=python3.11\n" in refused(tmp_path)


STARTED = f"""#!{sys.executable}
import os, sys, time
from pathlib import Path
filling, tests, ahead = map(int, Path("statuses").read_text().split())
if "tests.extras" not in sys.argv:
    while not Path("filling").exists():
        time.sleep(0.01)
    own = "tests/unit" not in sys.argv
    print("ahead" if own else "others")
    sys.exit(ahead if own else tests)
Path("partial").write_text(str(os.getpid()))
Path("partial").rename("filling")
time.sleep(0.2 if tests == ahead == 0 else 60)
sys.exit(filling)
"""
"""An interpreter that fills folders, or tests: with these statuses, and for a minute beside tests that fail."""


def units(folder: Path, *statuses: int) -> tuple[int, list[str]]:
    """The status of `make unit`, after which nobody fills folders, and what its tests print."""
    shutil.copy(ROOT / "Makefile", folder)
    (folder / "statuses").write_text(" ".join(map(str, statuses)))
    (folder / ".venv/bin").mkdir(parents=True)
    for name in ("requirements.lock", "pyproject.toml", ".venv/installed"):
        (folder / name).touch()
    (folder / ".venv/bin/python").write_text(STARTED)
    (folder / ".venv/bin/python").chmod(0o755)
    with open(folder / "said", "w") as said:
        done = subprocess.run(["make", "--silent", "unit"], cwd=folder, stdout=said, stderr=subprocess.DEVNULL)
    with pytest.raises(ProcessLookupError):
        os.kill(int((folder / "filling").read_text()), 0)
    return done.returncode, (folder / "said").read_text().split()


@pytest.mark.parametrize(
    ("filling", "tests", "ahead", "status"),
    [(0, 0, 0, 0), (3, 0, 0, 2), (0, 1, 0, 2), (0, 0, 1, 2)],
    ids=["all is well", "not filled", "a test fails", "a test fails that needs no torch"],
)
def test_what_is_begun_beside_the_unit_tests_ends_with_them_and_must_not_fail(
    tmp_path: Path, filling: int, tests: int, ahead: int, status: int
) -> None:
    assert units(tmp_path, filling, tests, ahead) == (status, ["others", "ahead"])

"""Tests in forks of one process: all are run and told, also beside one that ends its process."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
ODD = """
import os, warnings
import pytest

def test_passes(tmp_path): (tmp_path / "file").write_text("")
def test_fails(): print("seen"); assert 1 == 2
def test_skips(): pytest.skip("for a reason")
def test_warns(): warnings.warn("careful", stacklevel=1)
def test_ends_the_process(): os._exit(0)
def test_comes_after(): pass
"""
FIXTURE = """
import pytest

@pytest.fixture(scope="session")
def kept():
    yield
    raise RuntimeError("not taken down")

@pytest.mark.parametrize("time", range(40))
def test_with_it(kept, time): pass
"""


def test_every_test_is_run_and_told_and_one_that_ends_its_process_fails(tmp_path: Path) -> None:
    for name, text in {"test_odd.py": ODD, "test_fixture.py": FIXTURE, "pytest.ini": "[pytest]\n"}.items():
        (tmp_path / name).write_text(text)
    options = ["--forks", "2", "-p", "tests.forked_workers", "-p", "no:cacheprovider", "-ra"]
    command = [sys.executable, "-m", "pytest", *options, f"--rootdir={tmp_path}", f"-c{tmp_path / 'pytest.ini'}"]
    given = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run([*command, str(tmp_path)], cwd=ROOT, env=given, capture_output=True, text=True, check=False)
    said = done.stdout
    assert done.returncode == 1, done.stderr
    assert re.search(r"2 failed, 43 passed, 1 skipped, 1 warning, 1 error in ", said)
    assert "E   assert 1 == 2" in said
    assert "the process that ran it ended with exit code 0" in said
    for shown in ("Captured stdout call", "UserWarning: careful", "RuntimeError: not taken down", "for a reason"):
        assert shown in said

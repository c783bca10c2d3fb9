"""What the Makefile does before it installs anything."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

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

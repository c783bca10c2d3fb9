"""A Python of its own with the clients that agents are written with, made once and kept below .rlscale."""

from __future__ import annotations

import fcntl
import hashlib
import subprocess
import sys
from pathlib import Path

import pytest

REQUIREMENTS = Path(__file__).parent / "clients" / "requirements.txt"
KEPT = Path(__file__).parents[2] / ".rlscale" / "clients"


@pytest.fixture(scope="session")
def outside_python() -> str:
    """The interpreter; tests that need it are skipped, with a line that says why, where pip reaches no index."""
    wanted = f"{sys.version}\n{sys.base_prefix}\n{REQUIREMENTS.read_text()}"
    folder = KEPT / hashlib.sha256(wanted.encode()).hexdigest()[:16]
    folder.mkdir(parents=True, exist_ok=True)
    python, complete = folder / "bin" / "python", folder / "complete"
    with open(folder / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # another pytest process may want the same
        if not complete.exists():
            subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
            said = _installed(python)
            if said:
                pytest.skip(f"not run: pip could not install {REQUIREMENTS.name}: {said}")
            complete.touch()
    return str(python)


def _installed(python: Path) -> str:
    """Have this interpreter's pip install the requirements for another one; its last word where it cannot."""
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install"]
    how = ["--quiet", "--disable-pip-version-check", "--no-compile", "--retries=1", "--timeout=15"]
    done = subprocess.run([*pip, *how, "-r", REQUIREMENTS], capture_output=True, text=True, timeout=240, check=False)
    return "" if done.returncode == 0 else (done.stderr.strip().splitlines() or ["nothing"])[-1]

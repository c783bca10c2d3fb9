"""A Python of its own with the clients that agents are written with, made once and kept below .rlscale."""

from __future__ import annotations

import fcntl
import hashlib
import subprocess
import sys
import time
from pathlib import Path

import pytest

REQUIREMENTS = Path(__file__).parent / "clients" / "requirements.txt"
KEPT = Path(__file__).parents[2] / ".rlscale" / "clients"
LIMIT_S = 240
SOON_S = 900
UNREACHED = ("after connection broken by", "Read timed out", "Max retries exceeded", "No matching distribution found")
"""What pip says where a connection cannot be made or breaks off, and of an index that is a part of another one."""


@pytest.fixture(scope="session")
def outside_python() -> str:
    """The interpreter; tests that need it are skipped, with a line that says why, where pip reaches no index
    that has everything.

    They fail where pip finds everything and cannot install it.
    """
    wanted = f"{sys.version}\n{sys.base_prefix}\n{REQUIREMENTS.read_text()}"
    folder = KEPT / hashlib.sha256(wanted.encode()).hexdigest()[:16]
    folder.mkdir(parents=True, exist_ok=True)
    python, complete, unreached = folder / "bin" / "python", folder / "complete", folder / "unreached"
    with open(folder / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # another pytest process may want the same
        if not complete.exists():
            subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
            # Whoever waited for the lock, or comes soon after, does not wait for the index once more.
            if unreached.exists() and time.time() - unreached.stat().st_mtime < SOON_S:
                pytest.skip(unreached.read_text())
            why = _why_unreached(python)
            if why:
                unreached.write_text(
                    f"not run: pip reaches no index that has all ({why}); it is tried again after {SOON_S} s"
                )
                pytest.skip(unreached.read_text())
            complete.touch()
    return str(python)


def _why_unreached(python: Path) -> str:
    """Have this interpreter's pip install the requirements for another one; why it reached no index, or nothing.

    AssertionError with its last lines where it fails for another reason.
    """
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install"]
    how = ["--quiet", "--disable-pip-version-check", "--no-compile", "--retries=1", "--timeout=15"]
    try:
        done = subprocess.run(
            [*pip, *how, "-r", REQUIREMENTS], capture_output=True, text=True, timeout=LIMIT_S, check=False
        )
    except subprocess.TimeoutExpired:
        return f"not done within {LIMIT_S} s"
    lines = done.stderr.strip().splitlines()
    broken = [line for line in lines if any(word in line for word in UNREACHED)]
    if done.returncode and broken:
        return broken[-1]
    assert done.returncode == 0, f"pip could not install {REQUIREMENTS}:\n" + "\n".join(lines[-5:])
    return ""

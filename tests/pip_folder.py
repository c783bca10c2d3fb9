"""Folders that pip fills once and that are kept below .rlscale: packages for tests that the lock does not hold."""

from __future__ import annotations

import fcntl
import hashlib
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

KEPT = Path(__file__).parents[1] / ".rlscale"
LIMIT_S = 240
SOON_S = 900
UNREACHED = ("after connection broken by", "Read timed out", "Max retries exceeded", "No matching distribution found")
"""What pip says where a connection cannot be made or breaks off, and of an index that is a part of another one."""


def filled(kind: str, requirements: Path, words: Callable[[Path], Sequence[str]]) -> Path:
    """A folder of `.rlscale/<kind>` with what `requirements` names, made anew for other ones or another Python.

    `words` prepares the folder and gives the words of pip that install into it. The test that asks is skipped, with a
    line that says why, where pip reaches no index that has everything. AssertionError where pip finds everything and
    cannot install it.
    """
    wanted = f"{sys.version}\n{sys.base_prefix}\n{requirements.read_text()}"
    folder = KEPT / kind / hashlib.sha256(wanted.encode()).hexdigest()[:16]
    folder.mkdir(parents=True, exist_ok=True)
    complete, unreached = folder / "complete", folder / "unreached"
    with open(folder / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # another pytest process may want the same
        if complete.exists():
            return folder
        # Whoever waited for the lock, or comes soon after, does not wait for the index once more.
        if unreached.exists() and time.time() - unreached.stat().st_mtime < SOON_S:
            pytest.skip(unreached.read_text())
        if why := _why_unreached(words(folder), requirements):
            unreached.write_text(
                f"not run: pip reaches no index that has all ({why}); it is tried again after {SOON_S} s"
            )
            pytest.skip(unreached.read_text())
        complete.touch()
    return folder


def _why_unreached(words: Sequence[str], requirements: Path) -> str:
    """Have this interpreter's pip install the requirements; why it reached no index, or nothing.

    AssertionError with its last lines where it fails for another reason.
    """
    how = ["--quiet", "--disable-pip-version-check", "--no-compile", "--retries=1", "--timeout=15"]
    asked = [sys.executable, "-m", "pip", *words, *how, "-r", str(requirements)]
    try:
        done = subprocess.run(asked, capture_output=True, text=True, timeout=LIMIT_S, check=False)
    except subprocess.TimeoutExpired:
        return f"not done within {LIMIT_S} s"
    lines = done.stderr.strip().splitlines()
    broken = [line for line in lines if any(word in line for word in UNREACHED)]
    if done.returncode and broken:
        return broken[-1]
    assert done.returncode == 0, f"pip could not install {requirements}:\n" + "\n".join(lines[-5:])
    return ""

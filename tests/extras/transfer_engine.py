"""What engines hand keys and values over with, in a folder of its own below .rlscale, for the tests that use it."""

from __future__ import annotations

import contextlib
import ctypes
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.pip_folder import filled

REQUIREMENTS = Path(__file__).with_name("transfer_engine.txt")
LIBRARIES = ("libibverbs1", "libnl-3-200", "libnl-route-3-200")
"""Debian's packages that it is linked to, also where it uses TCP alone."""


def transfer_engine() -> dict[str, str]:
    """Variables under which a process can import it. The test that asks is skipped, with a line, where it cannot be
    had."""
    folder = filled("transfer", REQUIREMENTS, _beside)
    libraries = folder / "libraries"
    if not _is_there("libibverbs.so.1") and not libraries.exists():
        _unpack(libraries)
    found = sorted({str(file.parent) for file in libraries.rglob("*.so.*")})
    return {"PYTHONPATH": str(folder / "packages"), "LD_LIBRARY_PATH": ":".join(found)}


def _beside(folder: Path) -> Sequence[str]:
    return ["install", "--no-deps", "--upgrade", "--target", str(folder / "packages")]


def _is_there(library: str) -> bool:
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True


def _unpack(libraries: Path) -> None:
    """Debian's packages, without installing them."""
    if shutil.which("apt-get") is None:
        pytest.skip("not run: the transfer engine needs libibverbs, which is not there, and neither is apt-get")
    partial = Path(tempfile.mkdtemp(dir=libraries.parent))
    asked = ["apt-get", "download", *LIBRARIES]
    done = subprocess.run(asked, cwd=partial, capture_output=True, text=True, timeout=60, check=False)
    if done.returncode:
        shutil.rmtree(partial)
        pytest.skip(f"not run: libibverbs is not there, and apt-get does not reach it: {done.stderr.strip()[-200:]}")
    for package in partial.glob("*.deb"):
        subprocess.run(["dpkg", "-x", str(package), str(partial)], check=True)
        package.unlink()
    with contextlib.suppress(OSError):  # another pytest process was first
        partial.rename(libraries)

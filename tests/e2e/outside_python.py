"""A Python of its own with the clients that agents are written with, made once and kept below .rlscale."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.pip_folder import filled

REQUIREMENTS = Path(__file__).parent / "clients" / "requirements.txt"


@pytest.fixture(scope="session")
def outside_python() -> str:
    """The interpreter; tests that need it are skipped, with a line that says why, where pip reaches no index."""
    return str(filled("clients", REQUIREMENTS, _virtual_environment) / "bin" / "python")


def _virtual_environment(folder: Path) -> Sequence[str]:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    return ["--python", str(folder / "bin" / "python"), "install"]

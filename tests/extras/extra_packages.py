"""The packages of the extras outside the lock, in a folder of their own below .rlscale, for the tests that use them."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.pip_folder import filled

REQUIREMENTS = Path(__file__).parent / "requirements.txt"


def extra_folder() -> Path:
    """The folder to import them from. The test that asks is skipped, with a line, where they cannot be had."""
    if shutil.which("cc") is None:
        pytest.skip("not run: reasoning-gym needs pycosat, which is compiled, and there is no C compiler")
    return filled("extras", REQUIREMENTS, _beside) / "packages"


@pytest.fixture(scope="module")
def extra_packages() -> Iterator[Path]:
    """They can be imported, here and in the processes that are started; what the environment has comes first."""
    folder = extra_folder()
    sys.path.append(str(folder))
    yield folder
    sys.path.remove(str(folder))


def _beside(folder: Path) -> Sequence[str]:
    """Nothing that the lock has is installed again; the environment's setuptools builds what comes as source."""
    return ["install", "--no-deps", "--no-build-isolation", "--upgrade", "--target", str(folder / "packages")]

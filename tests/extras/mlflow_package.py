"""MLflow, in a folder of its own below .rlscale, for the test that uses it."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.pip_folder import filled

REQUIREMENTS = Path(__file__).with_name("mlflow.txt")


@pytest.fixture
def mlflow_package() -> Iterator[None]:
    """It can be imported. The test that asks is skipped, with a line, where it cannot be had."""
    folder = str(mlflow_folder())
    sys.path.append(folder)
    yield
    sys.path.remove(folder)


def mlflow_folder() -> Path:
    """The folder to import it from. The test that asks is skipped, with a line, where it cannot be had."""
    return filled("mlflow", REQUIREMENTS, _beside) / "packages"


def _beside(folder: Path) -> Sequence[str]:
    return ["install", "--no-deps", "--upgrade", "--target", str(folder / "packages")]

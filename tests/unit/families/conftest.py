"""Tiny model folders of each family."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.unit.families.folders import DENSE, Weights, write


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., Path]:
    """Writes a folder, see `write`; a name may be given."""

    def of(config: dict[str, Any] = DENSE, weights: Weights | None = None, name: str = "model") -> Path:
        return write(tmp_path / name, config, weights)

    return of

"""The process that the tests of the published clients share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.e2e.clients.outside import Outside


@pytest.fixture(scope="session")
def outside(outside_python: str) -> Iterator[Outside]:
    """It, for the session."""
    with Outside(outside_python) as process:
        yield process

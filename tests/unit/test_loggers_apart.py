"""What tests log is caught as pytest catches it."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest


@pytest.fixture(scope="module", autouse=True)
def apart() -> Iterator[logging.Logger]:
    """A logger that passes nothing on."""
    logger = logging.getLogger("tests.apart")
    logger.propagate = False
    yield logger
    logger.propagate = True


def test_what_passes_on_is_caught_from_the_beginning(caplog: pytest.LogCaptureFixture) -> None:
    logging.getLogger("tests.others").warning("of others")
    assert caplog.messages == ["of others"]


def test_what_passes_nothing_on_is_caught_in_the_tests_after(
    caplog: pytest.LogCaptureFixture, apart: logging.Logger
) -> None:
    apart.warning("of one apart")
    assert caplog.messages == ["of one apart"]

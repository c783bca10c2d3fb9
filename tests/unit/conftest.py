"""What tests of several rooms share."""

from __future__ import annotations

import gc
import socket
from collections.abc import Iterator

import pytest


def pytest_collection_finish() -> None:
    """What importing the tests has made stays to the end: without it, collecting garbage takes a tenth of the time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 20, 20)


@pytest.fixture
def taken() -> Iterator[int]:
    """A port on which somebody listens."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        yield other.getsockname()[1]

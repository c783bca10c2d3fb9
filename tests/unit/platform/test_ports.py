"""Ports that are free."""

from __future__ import annotations

import random
import socket
from collections.abc import Iterator

import pytest

from rlscale.platform.ports import free_port, is_free


@pytest.fixture
def taken() -> Iterator[int]:
    """A port on which somebody listens."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        yield other.getsockname()[1]


def test_a_port_in_use_is_passed_over(taken: int) -> None:
    assert not is_free("127.0.0.1", taken)
    assert free_port("127.0.0.1", taken) != taken
    free = free_port("127.0.0.1")
    assert free_port("127.0.0.1", free) == free


def test_no_outgoing_connection_can_take_it_and_equal_seeds_do_not_draw_the_same() -> None:
    drawn = set()
    for _ in range(20):
        random.seed(0)
        drawn.add(free_port("127.0.0.1"))
    assert max(drawn) < 32_768
    assert len(drawn) > 10

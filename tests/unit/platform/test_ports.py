"""Ports that are free."""

from __future__ import annotations

import random

from rlscale.platform.ports import free_port, is_free


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

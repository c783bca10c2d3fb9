"""An engine that answers and does not get on: what counts as getting on, and what nobody expects tokens of."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from rlscale.platform.sglang_passes import KEY, Passes, passes_of
from rlscale.serve.progress_endpoint import Moves
from rlscale.serve.pulse import Activity, computed, stopped_of
from rlscale.serve.standstill import Standstill


class Clock:
    def __init__(self) -> None:
        self.now = 50.0

    def __call__(self) -> float:
        return self.now


def test_a_token_and_an_end_are_moves_and_a_request_that_comes_is_none() -> None:
    moves = Moves()
    looks = [{"a": 0}, {"a": 0, "b": 0}, {"a": 0, "b": 1}, {"a": 0, "b": 1}, {"b": 1}, {"b": 1, "c": 0}]
    assert [moves.look(tokens) for tokens in looks] == [0, 0, 1, 1, 2, 2]


@pytest.mark.parametrize(
    ("requests", "paused", "moves", "seconds"),
    [
        (3, False, (7, 7, 7), 6.0),
        (3, False, (7, 7, 8), 0.0),  # it got on
        (0, False, (7, 7, 7), 0.0),  # nothing is asked of it
        (3, True, (7, 7, 7), 0.0),  # it takes weights
    ],
)
def test_an_engine_stands_still_while_it_has_requests_is_not_paused_and_none_of_them_moves(
    requests: int, paused: bool, moves: tuple[int, ...], seconds: float
) -> None:
    clock = Clock()
    standstill = Standstill(clock)
    assert standstill.seconds() == 0.0
    for count in moves:
        standstill.hear({"requests": requests, "paused": paused, "moves": count})
        standstill.seconds()
        clock.now += 2.0
    assert standstill.seconds() == seconds


@pytest.mark.parametrize(
    ("begun", "decoding", "seconds"),
    [
        ((5, 5, 5, 5), (0, 0, 0, 0), 8.0),
        ((5, 6, 7, 8), (5, 6, 7, 8), 0.0),  # its answers come every 64 tokens
        ((5, 6, 7, 7), (5, 6, 7, 7), 4.0),
        ((5, 500, 3000, 9000), (0, 0, 0, 0), 0.0),  # it reads prompts
        ((5, 500, 1003, 1004), (5, 500, 1003, 1004), 0.0),
        ((5, 500, 1005, 2000), (5, 500, 1005, 2000), 6.0),  # so many passes of which nobody gets a token
    ],
)
def test_an_engine_that_makes_passes_works_although_no_token_has_come_out_yet(
    begun: tuple[int, ...], decoding: tuple[int, ...], seconds: float
) -> None:
    clock = Clock()
    standstill = Standstill(clock)
    standstill.hear({"requests": 1, "paused": False, "moves": 7}, Passes(begun[0], decoding[0]))
    for passes in zip(begun, decoding, strict=True):
        standstill.hear({"requests": 1, "paused": False, "moves": 7}, Passes(*passes))
        standstill.without_a_pass()
        clock.now += 2.0
    assert standstill.without_a_pass() == seconds
    assert standstill.worked == (begun[1] != 5)


def test_an_engine_that_tells_no_passes_is_known_by_its_tokens() -> None:
    clock = Clock()
    standstill = Standstill(clock)
    for _ in range(3):
        standstill.hear({"requests": 1, "paused": False, "moves": 7})
        assert standstill.seconds() == standstill.without_a_pass()
        clock.now += 2.0
    assert standstill.without_a_pass() == 6.0
    assert not standstill.worked


def test_passes_of_all_schedulers_of_a_server_count() -> None:
    assert passes_of({"internal_states": [{KEY: [3, 1]}, {KEY: [4, 2]}]}) == Passes(7, 3)
    assert [passes_of(told) for told in (None, [], {}, {"internal_states": [{"tp_size": 1}]})] == [None] * 4


@pytest.mark.skipif(not hasattr(os, "SCHED_IDLE"), reason="needs a scheduling class that starves")
def test_a_process_that_gets_no_core_is_not_idle() -> None:
    core = {min(os.sched_getaffinity(0))}

    def starve() -> None:
        os.sched_setaffinity(0, core)
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))

    busy = [sys.executable, "-I", "-S", "-c", "while True: pass"]
    hog = subprocess.Popen(busy, preexec_fn=lambda: os.sched_setaffinity(0, core))
    starved = subprocess.Popen(busy, preexec_fn=starve)
    try:
        time.sleep(0.3)
        activity, before = Activity(), computed([starved.pid])
        activity.is_idle([starved.pid])
        time.sleep(1.05)
        assert computed([starved.pid]) - before < 0.05
        assert not activity.is_idle([starved.pid])
        starved.send_signal(signal.SIGSTOP)
        hog.kill()
        os.sched_setscheduler(starved.pid, os.SCHED_OTHER, os.sched_param(0))  # it needs a core to take the signal
        while not stopped_of([starved.pid]):
            time.sleep(0.01)
        assert activity.is_idle([starved.pid])
    finally:
        for process in (hog, starved):
            process.kill()
            process.wait()

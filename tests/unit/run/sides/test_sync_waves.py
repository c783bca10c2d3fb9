"""The order of a sync in waves, and what it comes to. Real engines: tests/e2e/rollout/test_waves.py."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from rlscale.config.errors import UserError
from rlscale.run.sides.sync_waves import SyncWaves

URLS = ["http://0", "http://1", "http://2"]


class Told:
    """Router, rollout service and sync of three engines, which write down what they are told."""

    def __init__(self) -> None:
        self.said: list[Any] = []
        self.syncs = 0
        self.fails_at: str | None = None
        self.stuck: str | None = None

    @property
    def urls(self) -> list[str]:
        return URLS

    def withdraw(self, urls: Sequence[str]) -> None:
        self.said.append(("withdraw", *urls))

    def admit(self, urls: Sequence[str], meanwhile: Callable[[], None]) -> None:
        if self.stuck in urls:
            meanwhile()
        self.said.append(("admit", *urls))

    def drain(self, urls: Sequence[str], meanwhile: Callable[[], None]) -> None:
        meanwhile()
        self.said.append(("drain", *urls))

    def watching(self, version: int, urls: Sequence[str] = ("all",)) -> Callable[[], None]:
        def look() -> None:
            if self.stuck in urls:
                raise UserError(f"weight sync {version}: {self.stuck} did not answer for 20 s")
            self.said.append(("watched", *urls))

        return look

    def over(self) -> None:
        self.syncs += 1

    def give(self, version: int, urls: Sequence[str]) -> dict[str, float]:
        if self.fails_at in urls:
            raise UserError(f"{self.fails_at} died")
        self.said.append(("give", version, *urls))
        return {"sync_seconds": 2.0, "sync_bytes": 10.0, "canary_diff": {"http://0": 3e-6}.get(urls[0], 1e-6)}

    def __call__(self, version: int, urls: Sequence[str] | None = None) -> dict[str, float]:
        self.said.append(("all", version, *(urls or ())))
        return {}


def test_each_wave_is_withdrawn_drained_given_the_weights_and_admitted_before_the_next_one() -> None:
    told: Any = Told()
    metrics = SyncWaves(told, told, told.drain, most=2)(7)
    steps = ("withdraw", "watched", "drain", "give", "admit")
    more = {"give": [7]}
    expected = [
        (step, "all") if step == "watched" else (step, *more.get(step, []), *wave)
        for wave in (URLS[:2], URLS[2:])
        for step in steps
    ]
    assert told.said == [*expected, ("watched", "all"), ("drain",)], "at the end no engine is left out"
    assert told.syncs == 1
    assert metrics.pop("sync_drain_seconds") >= 0
    assert metrics == {"sync_waves": 2.0, "sync_seconds": 4.0, "sync_bytes": 20.0, "canary_diff": 3e-6}


def test_an_engine_that_fails_is_not_asked_again_and_those_after_it_keep_their_weights_and_their_requests() -> None:
    told: Any = Told()
    told.fails_at = URLS[1]
    with pytest.raises(UserError, match="http://1 died"):
        SyncWaves(told, told, told.drain, most=1)(7)
    assert ("admit", URLS[0]) in told.said
    assert ("admit", URLS[1]) not in told.said
    assert not [step for step in told.said if URLS[2] in step]
    assert told.syncs == 0


def test_new_engines_get_their_weights_without_the_router_which_does_not_know_them() -> None:
    told: Any = Told()
    SyncWaves(told, told, told.drain, most=1)(7, [URLS[1]])
    assert told.said == [("all", 7, URLS[1])]


def test_an_engine_that_is_stuck_when_its_wave_is_over_is_not_waited_for() -> None:
    """Before the router sends it anything the engine must answer it."""
    told: Any = Told()
    told.stuck = URLS[1]
    with pytest.raises(UserError, match=r"^weight sync 7: http://1 did not answer for 20 s$"):
        SyncWaves(told, told, told.drain, most=1)(7)
    assert ("give", 7, URLS[1]) in told.said
    assert ("admit", URLS[1]) not in told.said

"""The engines' side of a run: who has the devices after an engine was given weights."""

from __future__ import annotations

from contextlib import suppress
from types import SimpleNamespace
from typing import Any

import pytest

from rlscale.config.errors import UserError
from rlscale.run.sides.engine_side import RunningEngines
from rlscale.run.sides.engines import MEMORY


@pytest.mark.parametrize("dies", [False, True])
@pytest.mark.parametrize("asleep", [False, True])
def test_a_trainer_that_slept_sleeps_again_even_if_an_engine_dies_while_it_gets_weights(
    asleep: bool, dies: bool
) -> None:
    told: list[str] = []

    def sync(version: int, urls: list[str]) -> None:
        told.append(f"sync {version} {urls[0]}")
        if dies:
            raise UserError("connection reset by peer")

    def heal(give_weights: Any, redirect: Any) -> None:
        with suppress(UserError):  # as where an engine that is down again is left to the next look
            give_weights(["engine-0"])

    def nothing(*_: Any) -> None: ...

    engines: Any = SimpleNamespace(heal=heal, resume_memory=nothing, release_memory=nothing)
    trainer: Any = SimpleNamespace(call=lambda method, what: told.append(method))
    rollout: Any = SimpleNamespace(redirect=nothing)
    weights: Any = sync
    side = RunningEngines(trainer, engines, rollout, weights, shares_devices=True)
    if asleep:
        side.come_back()
        told.clear()
    side.mend(3, now=True)
    assert told == (["wake", "sync 3 engine-0", "sleep"] if asleep else ["sync 3 engine-0"])


@pytest.mark.parametrize("turn", ["make_way", "come_back"])
def test_an_engine_that_is_dead_when_devices_change_hands_ends_no_run(turn: str) -> None:
    told: list[str] = []

    def asked(tags: list[str], *, of_the_living: bool = False) -> None:
        told.append(f"the living: {list(tags)}" if of_the_living else "all")
        if not of_the_living:
            raise UserError("http://engine-0: connection refused")

    engines: Any = SimpleNamespace(
        release_memory=asked, resume_memory=asked, down_within=lambda seconds: told.append("down?") or True
    )
    trainer: Any = SimpleNamespace(call=lambda method, what: told.append(method))
    nobody: Any = SimpleNamespace(redirect=None)
    side = RunningEngines(trainer, engines, nobody, nobody, shares_devices=True)
    getattr(side, turn)()
    told.remove("wake" if turn == "make_way" else "sleep")
    tags = list(MEMORY) if turn == "make_way" else ["kv_cache"]
    assert told == ["all", "down?", f"the living: {tags}"]
    engines.down_within = lambda seconds: False
    with pytest.raises(UserError, match="connection refused"):
        getattr(side, turn)()

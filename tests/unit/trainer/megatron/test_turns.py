from __future__ import annotations

from typing import Any

import pytest

from rlscale.trainer.megatron.turns import Turns


class FakeOffload:
    """Writes down what happens to a model."""

    def __init__(self, name: str, log: list[str]) -> None:
        self.name, self.asleep, self.log = name, False, log

    def sleep(self) -> None:
        self.asleep = True
        self.log.append(f"{self.name} sleeps")

    def wake(self) -> None:
        self.asleep = False
        self.log.append(f"{self.name} wakes")


@pytest.fixture
def log() -> list[str]:
    return []


def make_turns(log: list[str], *, moves: bool) -> Any:
    turns = Turns(moves)
    for name in ("policy", "critic"):
        offload: Any = FakeOffload(name, log)
        turns.join(name, offload)
    return turns


def test_one_model_at_a_time_is_awake(log: list[str]) -> None:
    turns = make_turns(log, moves=True)
    assert turns.awake == []
    turns.take("critic")
    assert turns.awake == ["critic"]
    turns.take("policy")
    assert turns.awake == ["policy"]
    turns.rest_all()
    assert turns.awake == []


def test_the_one_that_leaves_does_so_before_the_other_comes(log: list[str]) -> None:
    turns = make_turns(log, moves=True)
    turns.take("critic")
    log.clear()
    turns.take("policy")
    assert log == ["critic sleeps", "policy wakes"]


def test_nothing_is_moved_where_memory_is_one(log: list[str]) -> None:
    turns = make_turns(log, moves=False)
    turns.take("critic")
    turns.rest_all()
    assert turns.awake == ["policy", "critic"]
    assert log == []

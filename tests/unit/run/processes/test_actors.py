"""What the actor of a rank answers for its trainer."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from rlscale.run.processes.actors import TrainerActor


class Copies:
    """A trainer that can copy its state."""

    def state_key(self) -> tuple[int, ...]:
        return (3,)

    def copy_state(self, share: Any) -> Any: ...

    def put_state(self, own: bytes, *parts: Any) -> None: ...


NEEDED = ("state_key", "copy_state", "put_state")


@pytest.mark.parametrize("lacks", ["", *NEEDED])
def test_a_rank_has_a_key_where_its_trainer_has_all_that_copies_need(lacks: str) -> None:
    actor = TrainerActor.__new__(TrainerActor)
    actor._trainer = type("Made", (), {name: getattr(Copies, name) for name in NEEDED if name != lacks})()
    assert actor.state_key() == (None if lacks else (3,))


def test_a_rank_tells_once_what_it_did_and_nothing_of_calls_that_are_no_work_of_a_lane() -> None:
    actor = TrainerActor.__new__(TrainerActor)
    actor._busy = []
    actor._trainer = SimpleNamespace(
        train_shard=lambda *_: {"loss": 0.1}, send_weights=lambda version: version, saved=lambda: True
    )
    assert actor.train_shard(None, 1, False, True) == {"loss": 0.1}
    assert actor.call("send_weights", 2) == 2
    assert actor.call("saved")
    told = actor.busy()
    assert [name for name, _, _ in told] == ["train", "sync"]
    assert all(0 < start <= end for _, start, end in told)
    assert actor.busy() == []

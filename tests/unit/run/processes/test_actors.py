"""What the actor of a rank answers for its trainer."""

from __future__ import annotations

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

"""How much room a run takes on a machine."""

from __future__ import annotations

from rlscale.config.composition.compose import compose
from rlscale.doctor.needed import Needed


def output(*overrides: str) -> float:
    needed = Needed.of(compose(None, list(overrides))).output_bytes
    assert needed is not None
    return needed


def test_a_disk_needs_room_for_the_newest_and_the_best_checkpoints_and_one_that_is_being_written() -> None:
    least = output("checkpoint.keep=1")
    one = output("checkpoint.keep=2") - least
    assert one > 0
    assert output("checkpoint.keep=1", "checkpoint.keep_best=3") == least + 3 * one

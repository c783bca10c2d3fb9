"""The turns that trainer and engines take on shared devices, loop by loop."""

from __future__ import annotations

from typing import Any

import pytest

from rlscale.run import loops


class Recorder:
    """A session of one iteration that only remembers which verbs were said."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def iterations(self) -> range:
        return range(1)

    def __getattr__(self, verb: str) -> Any:
        return lambda *_: self.said.append(verb)


@pytest.mark.parametrize("loop", [loops.colocated, loops.supervised])
def test_the_trainer_takes_the_devices_before_it_trains(loop: Any) -> None:
    run = Recorder()
    loop(run)
    assert run.said[run.said.index("train") - 1] == "trainer_takes_devices"


@pytest.mark.parametrize(("loop", "first"), [(loops.colocated, "train"), (loops.disaggregated, "sync")])
def test_no_weights_are_sent_and_no_turns_taken_while_something_is_generated(loop: Any, first: str) -> None:
    run = Recorder()
    loop(run)
    assert run.said.index("collect") < run.said.index("pause_generation") < run.said.index(first)

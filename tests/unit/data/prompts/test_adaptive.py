"""What an adaptive source is told: every prompt once, in order, whatever finished first, also across a resume."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlscale.data.prompt_queue import PromptQueue
from rlscale.data.prompts.adaptive import Fate
from rlscale.data.prompts.sources import RawPrompt, Stream
from rlscale.data.sample import Prompt
from rlscale.run.contracts.source_contract import check_source
from rlscale.trainer.hook_contract import failed


class Ladder(Stream):
    """Gives the level's number, which rises by one for every solved prompt and falls for every other."""

    def __init__(self) -> None:
        super().__init__(size=1000, shuffle=False, seed=0)
        self.level = 0
        self.told: list[tuple[int, tuple[float, ...], str]] = []

    def item(self, number: int, index: int) -> RawPrompt:
        return RawPrompt(index, f"{number}/{self.level}", f"{self.level}", None)

    def observe(self, prompt: Prompt, rewards: Sequence[float], fate: Fate) -> None:
        self.told.append((prompt.index, tuple(rewards), fate))
        self.level += 1 if sum(rewards) > 0 else -1

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "level": self.level}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.level = state["level"]


class Forgetful(Ladder):
    """Does not save what it learned."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        Stream.load_state_dict(self, state)


class Encoder:
    dropped = 0
    limits = "nothing"

    def encode(self, raw: RawPrompt) -> Prompt | None:
        return None if raw.index % 7 == 3 else Prompt(raw.index, raw.id, np.zeros(1, np.int32), None)


def test_observations_come_in_the_order_of_prompts_and_prompts_left_out_are_not_waited_for() -> None:
    source = Ladder()
    queue = PromptQueue(source, Encoder())
    prompts = queue.take(6)
    assert [prompt.index for prompt in prompts] == [0, 1, 2, 4, 5, 6]
    for place in (5, 3, 0, 1):
        queue.observe(prompts[place], [float(place)], "kept")
    queue.take(1)
    assert [index for index, _, _ in source.told] == [0, 1]
    queue.observe(prompts[2], (), "failed")
    queue.observe(prompts[0], [9.0], "kept")  # generated again: not told twice
    queue.take(1)
    assert source.told == [
        (0, (0.0,), "kept"),
        (1, (1.0,), "kept"),
        (2, (), "failed"),
        (4, (3.0,), "kept"),
    ]


@settings(max_examples=50, deadline=None)
@given(order=st.permutations(range(8)), cut=st.integers(0, 8))
def test_a_saved_queue_goes_on_as_if_nothing_had_happened(order: list[int], cut: int) -> None:
    def run(*, saved: bool) -> tuple[list[str], int]:
        source = Ladder()
        queue = PromptQueue(source, Encoder())
        prompts = queue.take(8)
        for number, place in enumerate(order):
            if number == cut and saved:
                state = pickle.loads(pickle.dumps(queue.state_dict()))
                source = Ladder()
                queue = PromptQueue(source, Encoder())
                queue.load_state_dict(state)
            queue.observe(prompts[place], [float(place % 3)], "kept")
        return [prompt.id for prompt in queue.take(3)], source.level

    assert run(saved=True) == run(saved=False)


@pytest.mark.parametrize(("kind", "broken"), [(Ladder, []), (Forgetful, ["observe: state"])])
def test_the_contract_tells_a_source_that_forgets_what_it_was_told(kind: type[Ladder], broken: list[str]) -> None:
    findings = check_source(kind)
    assert [finding.check for finding in failed(findings)] == broken
    assert "observe" in {finding.check for finding in findings}

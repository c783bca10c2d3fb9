"""Sources that learn from what became of their prompts: a curriculum, or a mixture that shifts.

A source with a method `observe` is told of every prompt that it gave out and that was not left out as too long or bad,
once, in the order of the prompts, whichever group was finished first. What it makes of that is part of its
`state_dict`, so a run that continues goes on with what it had learned.
"""

from __future__ import annotations

from collections.abc import Sequence
from queue import SimpleQueue
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

from rlscale.data.sample import Prompt

Fate = Literal["kept", "filtered", "failed"]
"""What became of a prompt's group when it was finished: kept to be trained on, rejected by a filter (also if it is
trained on in the end, because nothing else was left), or given up because its samples failed."""


@runtime_checkable
class Adaptive(Protocol):
    """What a `PromptSource` has in addition if it adapts."""

    def observe(self, prompt: Prompt, rewards: Sequence[float], fate: Fate) -> None:
        """The group of `prompt` is finished; `rewards` are those of its samples, none where it failed.

        Never called while another method of the source runs. Called between two calls of `next`, so what is given out
        depends on the observations that had come by then.
        """


class Observation(NamedTuple):
    """What became of one prompt."""

    prompt: Prompt
    rewards: tuple[float, ...]
    fate: Fate


class Observations:
    """Brings what is observed, in any order and from any thread, to an adaptive source in the order of its prompts."""

    def __init__(self, source: object) -> None:
        self._source = source if isinstance(source, Adaptive) else None
        self._waiting: list[int] = []  # indices of prompts that were given out, in order, not observed yet
        self._early: dict[int, Observation] = {}  # of prompts behind one that is not observed yet
        self._new: SimpleQueue[Observation] = SimpleQueue()

    def given_out(self, prompt: object) -> None:
        """A prompt leaves for generation. Indices only ever rise."""
        if self._source is not None and isinstance(prompt, Prompt):
            self._waiting.append(prompt.index)

    def add(self, prompt: Prompt, rewards: Sequence[float], fate: Fate) -> None:
        """Note what became of a prompt. One that comes a second time (generated again) is not told twice."""
        if self._source is not None:
            self._new.put(Observation(prompt, tuple(map(float, rewards)), fate))

    def deliver(self) -> None:
        """Tell the source of all that is next in order. Not while another method of the source runs."""
        if self._source is None:
            return
        while not self._new.empty():
            observed = self._new.get()
            self._early.setdefault(observed.prompt.index, observed)
        told = 0
        for index in self._waiting:
            if index not in self._early:
                break
            self._source.observe(*self._early.pop(index))
            told += 1
        del self._waiting[:told]
        first = self._waiting[0] if self._waiting else None
        for index in [index for index in self._early if first is None or index < first]:
            del self._early[index]  # told before

    def state_dict(self) -> dict[str, Any]:
        """What is waited for, and what has come before its turn."""
        self.deliver()
        return {"waiting": list(self._waiting), "early": [tuple(one) for one in self._early.values()]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Wait for what was waited for when the state was saved."""
        self._waiting = list(state["waiting"])
        self._early = {one[0].index: Observation(*one) for one in state["early"]}

"""Prompt sources: endless seeded streams of prompts, whose whole state is a position."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from rlscale.config.errors import UserError


@dataclass
class RawPrompt:
    """A prompt before tokenizing: a string, or a list of chat messages (`{"role": ..., "content": ...}`).

    `index` is its position in the stream, which never repeats; `id` names the problem and does. `place` is where a
    person finds it (file and line), if it has one. `tools` are JSON schemas of functions, for the chat template.
    `source` is the name of the source in a mixture that it comes from, "" outside of one.
    """

    index: int
    id: str
    prompt: str | list[dict[str, Any]]
    label: Any = None
    info: dict[str, Any] = field(default_factory=dict)
    place: str = ""
    tools: list[dict[str, Any]] = field(default_factory=list)
    source: str = ""

    def where(self, key: str) -> str:
        """How a message names it; `key` is the section of its source (data, eval.data)."""
        return f"{self.place}:" if self.place else f"{key}: prompt {self.id}"


@runtime_checkable
class PromptSource(Protocol):
    """An endless stream of prompts. Your own class needs these four; `Stream` gives three."""

    def next(self, n: int) -> list[RawPrompt]:
        """The next n prompts, starting another epoch where one ends; indices go on counting."""
        ...

    def __len__(self) -> int:
        """Prompts of one epoch."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """What `load_state_dict` needs to go on after the last prompt handed out; plain values."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state` was taken."""
        ...


class Stream(ABC):
    """The order of a source with `size` items: every epoch all of them, shuffled anew by (seed, epoch).

    A subclass says what item number i is (`item`). `content`: what two sources share exactly when their items are the
    same; a run is resumed only with the content that it began with. Empty where that is not known.
    """

    uniform = False
    """Whether its items are all of one form, so that a few tried before a run stand for all."""
    left_out = 0
    """Items that were left out as bad when it was opened."""

    def __init__(self, size: int, shuffle: bool, seed: int, content: str = "") -> None:
        self._size = size
        self._content = content
        self._shuffle = shuffle
        self._seed = seed
        self._position = 0
        self._order: tuple[int, NDArray[np.int64]] | None = None  # epoch and its permutation

    @abstractmethod
    def item(self, number: int, index: int) -> RawPrompt:
        """Item `number` (0 to size - 1) as the prompt at `index` of the stream."""

    def next(self, n: int) -> list[RawPrompt]:
        """The next n prompts."""
        prompts = [self.item(self._number(index), index) for index in range(self._position, self._position + n)]
        self._position += n
        return prompts

    def __len__(self) -> int:
        return self._size

    def state_dict(self) -> dict[str, Any]:
        """The position, and the size and content that it refers to."""
        return {"position": self._position, "size": self._size, "content": self._content}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on at the saved position. UserError if the data is not what it was when the state was saved."""
        how = "give the same data, or start afresh with checkpoint.resume=never"
        if state["size"] != self._size:
            raise UserError(f"data: has {self._size} prompts, but the checkpoint was made with {state['size']}; {how}")
        before = state.get("content", "")
        if before and self._content and before != self._content:
            raise UserError(f"data: its {self._size} prompts are not the ones that the checkpoint was made with; {how}")
        self._position = int(state["position"])

    def _number(self, index: int) -> int:
        epoch, place = divmod(index, self._size)
        if not self._shuffle:
            return place
        if self._order is None or self._order[0] != epoch:
            self._order = (epoch, np.random.default_rng([self._seed, epoch]).permutation(self._size))
        return int(self._order[1][place])

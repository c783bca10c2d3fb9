"""Several sources as one: the shares of their weights are kept in every stretch of prompts."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rlscale.config.errors import UserError
from rlscale.data.prompts.adaptive import Adaptive, Fate
from rlscale.data.prompts.overlap import KnowsPrompts, PromptText
from rlscale.data.prompts.sources import PromptSource, RawPrompt
from rlscale.data.sample import Prompt

_AGAIN = "give the same sources, or start afresh with checkpoint.resume=never"


class MixtureSource:
    """The next prompt comes from the source that is furthest behind its share.

    Shares are exact up to about one prompt per source, so every batch is mixed alike; which source begins is drawn from
    the seed. Prompts have the index of the mixture's stream, the name of their source, and its name before their id.
    A source that adapts is told of its own prompts, with their indices in its own stream.
    """

    def __init__(self, sources: Mapping[str, PromptSource], weights: Mapping[str, float], seed: int) -> None:
        """`weights`: above 0, relative to each other."""
        self.sources = dict(sources)
        self._names = list(sources)
        total = sum(weights[name] for name in self._names)
        self._shares = np.array([weights[name] / total for name in self._names])
        self._phases = np.random.default_rng(seed).random(len(self._names))
        self._given = np.zeros(len(self._names), np.int64)
        self._own_index: dict[str, dict[int, int]] = {
            name: {} for name, source in self.sources.items() if isinstance(source, Adaptive)
        }  # of an adaptive source, the index of each prompt in its own stream by that in the mixture's

    def next(self, n: int) -> list[RawPrompt]:
        """The next n prompts."""
        return [self._draw() for _ in range(n)]

    def __len__(self) -> int:
        """Prompts until every source has been through once."""
        sizes = (len(source) for source in self.sources.values())
        return max(int(np.ceil(size / share)) for size, share in zip(sizes, self._shares, strict=True))

    def observe(self, prompt: Prompt, rewards: Sequence[float], fate: Fate) -> None:
        """Tell the prompt's source, if it adapts."""
        source, own = self.sources[prompt.source], self._own_index.get(prompt.source)
        if own is None or not isinstance(source, Adaptive):
            return
        index = own[prompt.index]
        # What is told comes in order: those before it were told, or left out as too long or bad.
        self._own_index[prompt.source] = {mixed: inner for mixed, inner in own.items() if mixed > prompt.index}
        name = prompt.id.removeprefix(f"{prompt.source}/")
        source.observe(dataclasses.replace(prompt, index=index, id=name), rewards, fate)

    def holds(self, prompts: Sequence[PromptText]) -> int:
        """How many of these prompts are among those of a source; one that two sources have counts twice, up to all."""
        known = (source for source in self.sources.values() if isinstance(source, KnowsPrompts))
        return min(len(prompts), sum(source.holds(prompts) for source in known))

    def state_dict(self) -> dict[str, Any]:
        """What each source has given, and its own state."""
        given = {name: int(count) for name, count in zip(self._names, self._given, strict=True)}
        states = {name: source.state_dict() for name, source in self.sources.items()}
        return {
            "given": given,
            "sources": states,
            "own_index": {name: dict(of) for name, of in self._own_index.items()},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on after the last prompt. UserError if the sources, or their data, are not those of the state."""
        if set(state["sources"]) != set(self._names):
            before, now = (", ".join(sorted(names)) for names in (state["sources"], self._names))
            raise UserError(f"data.sources: are {now}, but the checkpoint was made with {before}; {_AGAIN}")
        for name, source in self.sources.items():
            source.load_state_dict(state["sources"][name])
        self._given = np.array([state["given"][name] for name in self._names], np.int64)
        self._own_index = {name: dict(state["own_index"].get(name, {})) for name in self._own_index}

    def _draw(self) -> RawPrompt:
        index = int(self._given.sum())
        behind = (index + 1) * self._shares - self._given + self._phases
        number = int(np.argmax(behind))
        name = self._names[number]
        (raw,) = self.sources[name].next(1)
        self._given[number] += 1
        if name in self._own_index:
            self._own_index[name][index] = raw.index
        return dataclasses.replace(raw, index=index, id=f"{name}/{raw.id}", source=name)

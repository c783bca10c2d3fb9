"""A group that is being generated, or waits to be: what is there of it already."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from rlscale.data.sample import NOT_GENERATED, Group, Prompt, Sample
from rlscale.rollout.attempt import Attempt, Demand
from rlscale.rollout.engines.generation import Generation
from rlscale.rollout.ledger import Ledger


@dataclass
class PendingGroup:
    """A prompt, its finished samples by their place in the group, and the attempts at the others.

    `saved` holds, by place, number and parts of attempts that were under way when the group was saved.
    """

    prompt: Prompt
    samples: dict[int, Sample] = field(default_factory=dict)
    saved: dict[int, tuple[int, list[Generation]]] = field(default_factory=dict)
    attempts: dict[int, Attempt] = field(default_factory=dict)
    expected: int = 0
    task: asyncio.Task[None] | None = None

    def missing(self, samples: int) -> int:
        """How many of the group's `samples` samples are not finished."""
        return samples - len(self.samples)

    @property
    def started(self) -> int:
        """How many were begun, the finished ones among them."""
        return len(self.samples) + len(self.attempts)

    def expect(self, samples: int, demand: Demand) -> None:
        """That many attempts are about to begin: they want engines from now on."""
        self.expected += samples
        demand.samples += samples

    def attempt(self, place: int, number: int, version: Callable[[], int], ledger: Ledger, demand: Demand) -> Attempt:
        """Try at a place, from where the saved attempt was if there is one."""
        if self.expected:
            self.expect(-1, demand)
        before, parts = self.saved.pop(place, (number, []))
        attempt = Attempt(version, ledger, max(number, before), parts, demand)
        self.attempts[place] = attempt
        return attempt

    def finished(self, place: int, sample: Sample) -> None:
        """The attempt at a place became a sample."""
        attempt = self.attempts.pop(place)
        attempt.finished = True
        attempt.over()
        self.samples[place] = sample

    def left(self, demand: Demand) -> None:
        """Nothing more is generated for it."""
        self.expect(-self.expected, demand)
        for attempt in self.attempts.values():
            attempt.over()

    def found_in(self, group: Group) -> int:
        """How many of its tokens are those of a group of the same prompt that was finished by another process."""
        found = 0
        for sample in group.samples:
            own = sample.tokens[sample.loss_mask]
            if (mine := self.samples.get(sample.index)) is not None:
                parts = mine.tokens[mine.loss_mask]
            else:
                tokens = [part.tokens for part in self.saved.get(sample.index, (0, []))[1]]
                parts = np.concatenate(tokens) if tokens else own[:0]
            found += len(parts) if np.array_equal(own[: len(parts)], parts) else 0
        return found

    @staticmethod
    def finished_as(prompt: Prompt, group: Group) -> PendingGroup:
        """One of that prompt with all samples of the group."""
        return PendingGroup(prompt, {sample.index: sample for sample in group.samples})

    def group(self) -> Group:
        """The finished group."""
        return Group(self.prompt, [self.samples[place] for place in sorted(self.samples)])

    @property
    def tokens(self) -> int:
        """Tokens that were generated for it and are kept."""
        kept = sum(one.response_length for one in self.samples.values()) + sum(
            one.tokens for one in self.attempts.values()
        )
        return kept + sum(len(part.tokens) for _, parts in self.saved.values() for part in parts)

    def oldest_version(self, current: int) -> int:
        """The oldest weight version in its samples, or that met one of its requests; the current one if none did."""
        found = [sample.min_version for sample in self.samples.values()]
        found += [attempt.oldest for attempt in self.attempts.values() if attempt.oldest is not None]
        found += [int(part.versions.min()) for _, parts in self.saved.values() for part in parts]
        return min((version for version in found if version != NOT_GENERATED), default=current)

    def state_dict(self) -> dict[str, Any]:
        """All that another process can go on from."""
        saved = {place: (one.number, one.resumable) for place, one in self.attempts.items()} | self.saved
        return {"prompt": self.prompt, "samples": dict(self.samples), "attempts": saved}

    @staticmethod
    def of(state: dict[str, Any]) -> PendingGroup:
        """The group that was saved."""
        return PendingGroup(state["prompt"], dict(state["samples"]), dict(state["attempts"]))


def in_order(groups: Iterable[PendingGroup]) -> list[PendingGroup]:
    """Oldest prompts first."""
    return sorted(groups, key=lambda group: group.prompt.index)

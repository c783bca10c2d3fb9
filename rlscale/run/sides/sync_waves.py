"""A weight sync in waves: some engines take weights while the others generate (`weights.max_engines_at_once`).

An engine in the middle of its update is asked nothing: first the router leaves it out, then the rollout service waits
until nothing is under way there (`rollout.on_sync`), and only once it holds the new weights the router knows it again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:  # a simulation has waves, and nothing to send
    from rlscale.run.sides.weight_sync import WeightSync


class Router(Protocol):
    """What decides which engines are asked."""

    @property
    def urls(self) -> list[str]:
        """Of all engines."""

    def withdraw(self, urls: Sequence[str]) -> None:
        """Send these nothing more."""

    def admit(self, urls: Sequence[str], meanwhile: Callable[[], None] = ...) -> None:
        """Send them requests, too. `meanwhile` runs until they get some, and may raise."""


Drain = Callable[[Sequence[str], Callable[[], None]], None]
"""Waits until no request is under way in some engines, which are left out until the next call; the second argument
runs meanwhile."""


@dataclass
class SyncWaves:
    """A `WeightSync` that gives the weights to `most` engines at a time, each of which has nothing to do then."""

    sync: WeightSync
    router: Router
    drain: Drain
    most: int

    def __call__(self, version: int, urls: Sequence[str] | None = None) -> dict[str, float]:
        """See WeightSync. Metrics are the sums over the waves, and `canary_diff` the largest of theirs.

        Engines at `urls` are new, and nobody asks them yet. After a failure the router may lack engines: the next sync
        lets it know them again.
        """
        if urls is not None:
            return self.sync(version, urls)
        metrics: dict[str, float] = {"sync_waves": 0.0, "sync_drain_seconds": 0.0}
        for wave in waves(self.router.urls, self.most):
            for name, value in self._one(version, wave).items():
                before = metrics.get(name, 0.0)
                metrics[name] = max(before, value) if name == "canary_diff" else before + value
        self.drain((), self.sync.watching(version))  # nobody is left out from here on, also where nothing is asked yet
        self.sync.over()
        return metrics

    def _one(self, version: int, wave: Sequence[str]) -> dict[str, float]:
        began = time.perf_counter()
        self.router.withdraw(wave)
        self.drain(wave, self.sync.watching(version))
        drained = time.perf_counter() - began
        metrics = self.sync.give(version, wave)
        self.router.admit(wave, self.sync.watching(version, wave))
        return {**metrics, "sync_waves": 1.0, "sync_drain_seconds": drained}


def waves(urls: Sequence[str], most: int) -> Iterator[Sequence[str]]:
    """The engines in their order, `most` of them at a time."""
    for first in range(0, len(urls), most):
        yield urls[first : first + most]

"""What a loop is, and what it may tell a run to do: the protocol of `loop._target_`, and of what that is given.

A `TrainingSession` follows `Verbs` in a run, a `GeneratingSession` the shorter protocol, a simulated one `Verbs` in
`python -m rlscale simulate`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from rlscale.config.schema import Config
from rlscale.data.sample import Group


class GeneratingVerbs(Protocol):
    """A run that trains nothing (`run.generate_only`), as its loop tells it."""

    config: Config
    """The configuration of the run."""

    def begin(self) -> None:
        """Once, first: continue from the newest checkpoint if there is one, give the engines the weights, generate."""

    def iterations(self) -> Iterator[int]:
        """The iterations that are left, one `collect`, `train` and `record` each; ends early when the user stops it."""

    def collect(self) -> list[Group]:
        """Wait for the groups of the next iteration."""

    def train(self, groups: list[Group]) -> None:
        """The optimizer steps on these groups, if any are made; with them the iteration counts as done."""

    def record(self) -> None:
        """Log the iteration, and save when a checkpoint is due."""

    def go_on(self) -> None:
        """Generate with the weights that the engines have, for the next iteration."""

    def end(self) -> None:
        """Once, last: measure, save and export the final weights."""


class Verbs(GeneratingVerbs, Protocol):
    """A run, as its loop tells it."""

    def trainer_takes_devices(self) -> None:
        """Engines give up their memory, where trainer and engines share devices; generation stops."""

    def engines_take_devices(self) -> None:
        """They take it back."""

    def pause_generation(self) -> None:
        """Wait until no request is under way, or keeps its tokens (`rollout.on_sync`)."""

    def sync(self) -> None:
        """Give the engines the weights, as the next version."""


class Loop(Protocol):
    """The story of a run: calls `begin`, the verbs of each iteration, and `end`."""

    def __call__(self, run: Verbs, /) -> None:
        """Run it to its end."""

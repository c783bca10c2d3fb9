"""What a run asks of the rollout: the protocol of the class that `rollout._target_` names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from rlscale.data.sample import Group
from rlscale.rollout.evaluation import EvalResult
from rlscale.rollout.rollout_stats import RolloutStats


class Service(Protocol):
    """A long-lived service in a process of its own, all of whose methods run on one event loop.

    It is built as `Class(spec, **rollout.arguments)`, where `spec` is a rlscale.rollout.rollout_spec.RolloutSpec, and
    raises UserError where data, tokenizer or reward are unusable. Life: `start`, perhaps `load_state_dict`,
    `resume(version)`, then for every iteration `next_batch`, and around a weight sync `pause` and `resume(version)`.
    """

    async def start(self, url: str, api_key: str | None = None) -> None:
        """Connect to the router at `url`."""

    async def redirect(self, url: str) -> None:
        """The router is at `url` from now on."""

    async def next_batch(self) -> list[Group]:
        """The groups of the next iteration, none with a token over the staleness bound; waits until they are there."""

    async def pause(self) -> None:
        """No request is under way when this returns, and none is sent before `resume`."""

    async def resume(self, version: int) -> None:
        """Go on generating; the engines hold the weights of `version`, also where that is what it was: the next batch
        may be taken then, too."""

    async def evaluate(self, version: int, name: str = "") -> EvalResult:
        """Measure the weights that the engines hold, also while generation is paused. `name`: of one of `eval.sets`."""

    async def state_dict(self, trained: bool = True) -> dict[str, Any]:
        """What a run needs to go on: plain values, arrays, prompts, samples.

        `trained`: whether the batch last handed out was trained on.
        """

    async def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where the state was saved. Before the first `resume`."""

    async def stats(self) -> RolloutStats:
        """Totals of the run, and when engines were busy since the last call."""

    async def close(self) -> None:
        """End all background work."""


class DrainsEngines(Service, Protocol):
    """A service whose engines take weights in turns (`weights.max_engines_at_once`)."""

    async def drain(self, urls: Sequence[str]) -> None:
        """No request is under way in these engines when this returns, or keeps its tokens, and none is sent there.

        The router has left them out by then; the others generate on. Called for some engines after others, in place of
        `pause`, and followed by `resume`. Tokens that come meanwhile may be of the next version already.
        """

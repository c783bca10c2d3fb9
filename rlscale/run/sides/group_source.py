"""Where an iteration's groups come from: the rollout service behind its actor, or supervised data read in place."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from rlscale.data.sample import Group
from rlscale.data.supervised import SupervisedGroups
from rlscale.envs.served_models import Address
from rlscale.rollout.engines.engine_loads import EngineLoad
from rlscale.rollout.evaluation import EvalResult
from rlscale.rollout.rollout_spec import RolloutSpec
from rlscale.rollout.rollout_stats import RolloutStats
from rlscale.run.processes.actor_host import Place
from rlscale.run.processes.actor_settings import ROLLOUT_ENVIRONMENT
from rlscale.run.processes.actors import RolloutActor
from rlscale.run.processes.forks import Forks
from rlscale.run.processes.remote_calls import Calls

_CANCELLED_S = 10.0
"""How long an evaluation that is left may take to give its requests up."""


class GroupSource(Protocol):
    """What a loop collects its groups from."""

    def collect(self, meanwhile: Callable[[], None]) -> list[Group]:
        """The next iteration's groups; `meanwhile` runs while waiting."""

    def pause(self, meanwhile: Callable[[], None]) -> None:
        """No generation is in flight when this returns; `meanwhile` runs while waiting."""

    def resume(self, version: int) -> None:
        """Engines have the weights of `version`: generate with them."""

    def stats(self) -> RolloutStats:
        """Totals of the run, and when the engines were busy since the last call."""

    def state_dict(self, *, trained: bool) -> Any:
        """Data position, buffer and counters. `trained`: whether steps were made on the last batch handed out."""

    def load_state_dict(self, state: Any) -> None:
        """Continue from a state."""

    def is_there(self) -> None:
        """Returns where it answers."""


class Rollout:
    """The rollout service in its own process."""

    def __init__(self, spec: RolloutSpec, calls: Calls, logs: Path, forks: Forks, node: str) -> None:
        """`node`: Ray's id of the machine that the router is on, which may listen there alone."""
        self._calls = calls
        log = logs / "rollout.log"
        place = Place(node, forks.runtime_env(ROLLOUT_ENVIRONMENT), concurrency=64)
        self._actor = calls.host.start(RolloutActor, place, str(log))
        calls.processes.add("the rollout service", log, self._actor)
        self._addresses = spec.addresses
        self._preparing = self._actor.prepare.remote(spec)

    def prepared(self) -> None:
        """Wait until data, tokenizer and reward were read. Raises UserError where one is unusable."""
        self._calls.one(self._preparing, "rollout start", heed_stop=True)

    def start(self, url: str, api_key: str) -> None:
        """Connect to the router."""
        self._calls.one(self._actor.start.remote(url, api_key), "rollout start", heed_stop=True)

    def tell_model(self, name: str, address: Address) -> None:
        """The model of that name in `rollout.models` is to be reached at the address from now on."""
        self._calls.one(self._actor.tell_model.remote(name, address), f"telling where {name} is", heed_stop=True)

    def model_loads(self) -> dict[str, EngineLoad]:
        """By the name of a model of `rollout.models` the mean load of its engines since the last call."""
        loads: dict[str, EngineLoad] = self._calls.one(
            self._actor.model_loads.remote(), "loads of the models", heed_stop=True
        )
        return loads

    def collect(self, meanwhile: Callable[[], None]) -> list[Group]:
        """The next iteration's groups, in the order of their prompts."""
        ref = self._actor.call.remote("next_batch")
        groups: list[Group] = self._calls.one(ref, "generation", meanwhile=meanwhile, heed_stop=True)
        return groups

    def evaluate(self, version: int, meanwhile: Callable[[], None], name: str = "") -> Any:
        """Measure the weights of `version` on an evaluation set; "" is `eval.data`."""
        ref = self._actor.call.remote("evaluate", version, *([name] if name else []))
        return self._calls.one(ref, "evaluation", meanwhile=meanwhile, heed_stop=True)

    def begin_evaluation(self, version: int, names: list[str]) -> Any:
        """Begin to measure the weights of `version` on the evaluation sets of these names, one after another."""
        return self._actor.evaluate.remote(version, names)

    def is_over(self, evaluation: Any) -> bool:
        """Whether an evaluation that began is done, or has failed."""
        return bool(self._calls.host.wait([evaluation], 0)[0])

    def evaluated(self, evaluation: Any) -> tuple[dict[str, EvalResult], float]:
        """What an evaluation found, by the name of the set, and when it was done (seconds since 1970).

        UserError if too much of it failed.
        """
        found: tuple[dict[str, EvalResult], float] = self._calls.one(evaluation, "evaluation")
        return found

    def cancel(self, evaluation: Any) -> None:
        """Leave an evaluation; its requests are given up."""
        self._calls.host.cancel(evaluation)
        self._calls.host.wait([evaluation], _CANCELLED_S)

    def until(self, condition: Callable[[], bool], meanwhile: Callable[[], None], evaluation: Any) -> None:
        """Wait for an evaluation to be over; see `Calls.until`."""
        self._calls.until(condition, "evaluation", meanwhile, evaluation)

    def score(
        self,
        url: str,
        api_key: str,
        tokens: NDArray[np.int32],
        meanwhile: Callable[[], None] | None = None,
        adapter: str | None = None,
        fields: Mapping[str, Any] | None = None,
    ) -> NDArray[np.float32]:
        """Log-probs of tokens[1:] by the engine at `url`, at temperature 1; `meanwhile` runs while waiting.

        `adapter`: which one the engine is to compute with; None for none. `fields`: what the request says besides.
        """
        ref = self._actor.score.remote(url, api_key, tokens, adapter, fields)
        scored: NDArray[np.float32] = self._calls.one(ref, f"canary of {url}", meanwhile=meanwhile, heed_stop=True)
        return scored

    def handed_over(
        self,
        url: str,
        generates: str,
        api_key: str,
        tokens: NDArray[np.int32],
        new_tokens: int,
        meanwhile: Callable[[], None] | None = None,
    ) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """Tokens, and their log-probs at temperature 1, of the engine at `generates`, once that at `url` has read."""
        ref = self._actor.handed_over.remote(url, generates, api_key, tokens, new_tokens)
        found: tuple[NDArray[np.int32], NDArray[np.float32]] = self._calls.one(
            ref, f"canary of {generates}", meanwhile=meanwhile, heed_stop=True
        )
        return found

    def pause(self, meanwhile: Callable[[], None]) -> None:
        """No generation is in flight when this returns; `meanwhile` runs while waiting.

        StopRequested on a stop signal.
        """
        self._calls.one(self._actor.call.remote("pause"), "rollout.pause", meanwhile=meanwhile, heed_stop=True)

    def drain(self, urls: Sequence[str], meanwhile: Callable[[], None]) -> None:
        """No request is under way in these engines when this returns, or keeps its tokens; the others generate on.

        StopRequested on a stop signal.
        """
        drained = self._actor.call.remote("drain", list(urls))
        self._calls.one(drained, "rollout.drain", meanwhile=meanwhile, heed_stop=True)

    def leave(self, urls: Sequence[str]) -> None:
        """What is under way in these engines, which the router has left out, goes on in others when this returns.

        UserError where they are not empty after half a minute, StopRequested on a stop signal.
        """
        self._calls.one(self._actor.call.remote("leave", list(urls)), "rollout.leave", heed_stop=True)

    def give_up(self, urls: Sequence[str]) -> None:
        """What waits for an answer of these engines, which the router has left out, goes on in others."""
        self._told("give_up", list(urls))

    def engines_are(self, count: int) -> None:
        """So many engines generate from now on."""
        self._told("engines_are", count)

    def redirect(self, url: str) -> None:
        """The router is at `url` now."""
        self._told("redirect", url)

    def resume(self, version: int) -> None:
        """Engines have the weights of `version`: generate with them."""
        self._told("resume", version)

    def stats(self) -> RolloutStats:
        """Totals of the run, and when the engines were busy since the last call."""
        stats: RolloutStats = self._told("stats")
        return stats

    def state_dict(self, *, trained: bool) -> Any:
        """Data position, buffer and counters. `trained`: whether steps were made on the last batch handed out."""
        return self._calls.one(
            self._actor.call.remote("state_dict", trained), "rollout.state_dict", measured="rollout.state_dict"
        )

    def load_state_dict(self, state: Any) -> None:
        """Continue from a state."""
        self._calls.host.check()  # reading it took its time
        self._told("load_state_dict", state)

    def is_there(self) -> None:
        """Returns where the service answers."""
        self._calls.one(self._actor.is_there.remote(), "rollout.is_there")

    def close(self) -> None:
        """End the service."""
        self._calls.host.end(self._actor)
        if self._addresses:
            shutil.rmtree(self._addresses, ignore_errors=True)

    def _told(self, method: str, *args: Any) -> Any:
        """The answer to what the loop says or asks while it goes on: StopRequested on a stop signal."""
        return self._calls.one(self._actor.call.remote(method, *args), f"rollout.{method}", heed_stop=True)


class SupervisedGroupSource:
    """Supervised data as a group source: nothing is generated."""

    def __init__(self, groups: SupervisedGroups) -> None:
        self._groups = groups
        self._before: Any = None

    def collect(self, meanwhile: Callable[[], None]) -> list[Group]:
        """The next samples, a group each."""
        self._before = self._groups.state_dict()
        return self._groups.next_batch()

    def pause(self, meanwhile: Callable[[], None]) -> None:
        """Nothing is in flight."""

    def resume(self, version: int) -> None:
        """Nothing waits for weights."""

    def stats(self) -> RolloutStats:
        """Only what the data held back is counted."""
        return RolloutStats({"prompts_too_long": self._groups.dropped, "prompts_bad": self._groups.bad}, [])

    def state_dict(self, *, trained: bool) -> Any:
        """Data position; that before the last batch if no step was made on it."""
        return self._groups.state_dict() if trained or self._before is None else self._before

    def load_state_dict(self, state: Any) -> None:
        """Continue from a position."""
        self._groups.load_state_dict(state)

    def is_there(self) -> None:
        """It is read in this process."""

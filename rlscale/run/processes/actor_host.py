"""Where the parts of a run live that its driver calls: as actors of Ray in processes of their own, or in this one.

Either way a handle's method is called as `handle.method.remote(...)`, which gives a reference to what comes of it.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from rlscale.run.processes import ray_session
from rlscale.run.processes.actor_processes import Processes
from rlscale.run.processes.raylet_watch import RayletWatch


@dataclass(frozen=True)
class Place:
    """What an actor is started with, besides its arguments."""

    node: str | None = None
    """Ray's id of its machine; None for any."""
    runtime_env: Mapping[str, Any] = field(default_factory=dict)
    """Ray's, with the variables of its process."""
    concurrency: int = 1
    """Calls at once."""
    gpus: int | None = None
    """That it reserves."""


class ActorHost(Protocol):
    """Starts actors, and tells what their calls came to."""

    def machines(self, count: int, gpus: int) -> list[str]:
        """Ids of `count` machines with so many GPUs, this one first. UserError when there are fewer."""

    def standing_in(self, nodes: Sequence[str], used: Collection[int], gpus: int) -> list[str]:
        """The same machines, others in the place of those `used` that are gone. MachinesGone where none is free."""

    def present(self, gpus: int) -> list[str]:
        """Ids of all machines that there are now with so many GPUs."""

    def gone(self, nodes: Sequence[str]) -> list[str]:
        """Those of these machines that are not there any more."""

    def is_here(self, node: str) -> bool:
        """Whether this process is on that machine."""

    def processes(self) -> Processes:
        """Who watches the processes of the actors of a run."""

    def start(self, kind: type, place: Place, *arguments: Any) -> Any:
        """A handle to a new actor, which may still be starting."""

    def check(self) -> None:
        """RayDied where nothing can be called any more. To be asked before something large is sent with a call."""

    def put(self, value: Any) -> Any:
        """A reference to a value that several calls are given."""

    def wait(self, refs: Sequence[Any], timeout_s: float) -> tuple[list[Any], list[Any]]:
        """Those that are back, once all are or the time has passed, and the others."""

    def get(self, ref: Any) -> Any:
        """The result of a call that is back. Raises what it raised, or Ray's error about it."""

    def cancel(self, ref: Any) -> None:
        """Nobody wants the result of a call any more."""

    def end(self, handle: Any) -> None:
        """End an actor, whatever it does."""

    def clock(self) -> float:
        """Seconds of the deadlines of calls."""

    def sleep(self, seconds: float) -> None:
        """Let this time pass, in which calls go on."""


class RayActors:
    """Each in a process of its own. Ray must be up."""

    def machines(self, count: int, gpus: int) -> list[str]:
        """See ActorHost."""
        return ray_session.node_ids(count, gpus)

    def standing_in(self, nodes: Sequence[str], used: Collection[int], gpus: int) -> list[str]:
        """See ActorHost."""
        return ray_session.standing_in(nodes, used, gpus)

    def present(self, gpus: int) -> list[str]:
        """See ActorHost."""
        return ray_session.present(gpus)

    def gone(self, nodes: Sequence[str]) -> list[str]:
        """See ActorHost."""
        return ray_session.gone(nodes)

    def is_here(self, node: str) -> bool:
        """See ActorHost."""
        return bool(ray.get_runtime_context().get_node_id() == node)

    def processes(self) -> Processes:
        """See ActorHost."""
        return Processes()

    def start(self, kind: type, place: Place, *arguments: Any) -> Any:
        """See ActorHost."""
        actor: Any = ray.remote(kind)
        options: dict[str, Any] = {"num_cpus": 0, "runtime_env": dict(place.runtime_env)}
        if place.gpus is not None:
            options["num_gpus"] = place.gpus
        if place.concurrency > 1:
            options["max_concurrency"] = place.concurrency
        if place.node is not None:
            options["scheduling_strategy"] = NodeAffinitySchedulingStrategy(place.node, soft=False)
        return actor.options(**options).remote(*arguments)

    def check(self) -> None:
        """See ActorHost."""
        if ray.is_initialized():
            self._raylet.check()

    @cached_property
    def _raylet(self) -> RayletWatch:
        return ray_session.watch_raylet()

    def put(self, value: Any) -> Any:
        """See ActorHost."""
        self.check()
        return ray.put(value)

    def wait(self, refs: Sequence[Any], timeout_s: float) -> tuple[list[Any], list[Any]]:
        """See ActorHost."""
        if not refs:
            return [], []
        try:
            return ray.wait(list(refs), num_returns=len(refs), timeout=timeout_s)
        except OSError:  # the connection to the raylet is broken
            self.check()
            raise

    def get(self, ref: Any) -> Any:
        """See ActorHost."""
        self.check()
        return ray.get(ref)

    def cancel(self, ref: Any) -> None:
        """See ActorHost."""
        ray.cancel(ref)

    def end(self, handle: Any) -> None:
        """See ActorHost."""
        ray.kill(handle)

    def clock(self) -> float:
        """See ActorHost."""
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        """See ActorHost."""
        time.sleep(seconds)

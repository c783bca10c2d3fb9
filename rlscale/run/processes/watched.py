"""An actor whose process is watched, and what is asked of its machine."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from rlscale.run.processes.reaper import start_time
from rlscale.serve.pulse import Patience


@dataclass
class Watched:
    """The process of an actor."""

    name: str
    log: Path
    handle: Any
    asked: Any
    """The call that answers with the actor's id, its machine and its process."""
    patience: Patience
    servers: bool = False
    """Whether it supervises servers, whose stacks it can tell."""
    node: str = ""
    """Ray's id of its machine, once it is up."""
    pid: int = 0
    stopped: bool = False
    seconds: float = 0.0
    """For how long it has been stopped."""
    kind: str = ""
    """The name of its class, which the title of its process has before that can answer; empty where nobody said it."""
    since: float = field(default_factory=lambda: time.clock_gettime(time.CLOCK_BOOTTIME))
    """Seconds since this machine was started; its process is not older."""

    @property
    def awaited(self) -> str:
        """Ray's id of the actor, which is known before it answers; empty for what is no call of Ray's."""
        return self.asked.task_id().actor_id().hex() if isinstance(self.asked, ray.ObjectRef) else ""


def stopped_starters(kinds: Collection[str], besides: Collection[int]) -> list[tuple[str, int, float]]:
    """Processes of this user on this machine that a signal has stopped and whose title names a class of an actor.

    Each with that class, and the seconds from this machine's start to its own. Not those `besides`, whose actors are
    known.
    """
    found, ticks = [], os.sysconf("SC_CLK_TCK")
    for process in psutil.process_iter(["status", "uids"]):
        told = process.info
        if told["status"] != psutil.STATUS_STOPPED or told["uids"].real != os.getuid() or process.pid in besides:
            continue
        with contextlib.suppress(psutil.NoSuchProcess):
            title = " ".join(process.cmdline())
            began = int(start_time(process.pid) or 0) / ticks
            found += [(kind, process.pid, began) for kind in kinds if f"ray::{kind}" in title]
    return found


def on_machine(node: str, function: Callable[..., Any], *given: Any) -> Any:
    """Ray's reference to what the function comes to on another machine."""
    task: Any = ray.remote(function)
    place = NodeAffinitySchedulingStrategy(node, soft=False)
    return task.options(num_cpus=0, scheduling_strategy=place).remote(*given)

"""An actor whose process is watched, and what is asked of its machine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

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


def on_machine(node: str, function: Callable[..., Any], *given: Any) -> Any:
    """Ray's reference to what the function comes to on another machine."""
    task: Any = ray.remote(function)
    place = NodeAffinitySchedulingStrategy(node, soft=False)
    return task.options(num_cpus=0, scheduling_strategy=place).remote(*given)

"""An actor whose process is watched, and what is asked of its machine."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
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
    starters: list[int] = field(default_factory=list)
    """Before it is up, processes of this machine that a signal has stopped, of which one is that of this actor."""

    @property
    def awaited(self) -> str:
        """Ray's id of the actor, which is known before it answers; empty for what is no call of Ray's."""
        return actor_of(self.asked)


def actor_of(ref: Any) -> str:
    """Ray's id of the actor that has a call; empty for what is no call of Ray's."""
    return ref.task_id().actor_id().hex() if isinstance(ref, ray.ObjectRef) else ""


def stopped_now() -> list[int]:
    """Processes of this user on this machine that a signal has stopped."""
    told = ((one.pid, one.info) for one in psutil.process_iter(["status", "uids"]))
    return [pid for pid, info in told if info["status"] == psutil.STATUS_STOPPED and info["uids"].real == os.getuid()]


def below(root: int, besides: Collection[int], job: str) -> set[int]:
    """What descends from Ray's process `root` but for what descends from those `besides`, or is of another job."""
    children: dict[int, list[int]] = {}
    for process in psutil.process_iter(["ppid"]):
        children.setdefault(process.info["ppid"], []).append(process.pid)
    found = [pid for pid in children.get(root, ()) if _job_of(pid) in ("", job) and pid not in besides]
    for member in found:  # it grows
        found += [pid for pid in children.get(member, ()) if pid not in besides]
    return set(found)


def _job_of(pid: int) -> str:
    """What Ray has told a process which job it is for; empty where it has not."""
    with contextlib.suppress(psutil.Error):
        return str(psutil.Process(pid).environ().get("RAY_JOB_ID", ""))
    return ""


def holds_open(pid: int, file: Path) -> bool:
    """Whether a process has opened a file, as an actor does its log when it begins."""
    with contextlib.suppress(OSError):
        return any(os.path.realpath(opened) == str(file.resolve()) for opened in Path(f"/proc/{pid}/fd").iterdir())
    return False


def on_machine(node: str, function: Callable[..., Any], *given: Any) -> Any:
    """Ray's reference to what the function comes to on another machine."""
    task: Any = ray.remote(function)
    place = NodeAffinitySchedulingStrategy(node, soft=False)
    return task.options(num_cpus=0, scheduling_strategy=place).remote(*given)

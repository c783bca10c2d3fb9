"""Components of somebody's own, each of which leaves a mark of itself in the current folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rlscale.data.buffer import Buffer
from rlscale.data.sample import Group
from rlscale.observe.trackers import TrackedRun
from rlscale.rollout.service import RolloutService
from rlscale.run import loops
from rlscale.run.sessions.session import Session
from rlscale.serve.engine_launcher import SglangLauncher
from rlscale.serve.process import ServerProcess
from rlscale.trainer.megatron.trainer import MegatronTrainer
from rlscale.weights.transports.shared_memory import SharedMemoryTransport


def mark(what: str, folder: str) -> None:
    with open(Path(folder) / "marks.txt", "a") as file:
        file.write(f"{what}\n")


class OwnTrainer(MegatronTrainer):
    def __init__(self, *given: Any, marks: str) -> None:
        super().__init__(*given)
        self._marks = marks

    def train_shard(self, *given: Any) -> dict[str, float]:
        mark("trainer", self._marks)
        return {**super().train_shard(*given), "own_number": 7.0}


class OwnService(RolloutService):
    def __init__(self, spec: Any, marks: str) -> None:
        super().__init__(spec)
        self._marks = marks

    async def next_batch(self) -> list[Group]:
        mark("service", self._marks)
        return await super().next_batch()


class OwnBuffer(Buffer):
    def __init__(self, marks: str) -> None:
        super().__init__()
        self._marks = marks

    def put(self, group: Group) -> None:
        mark("buffer", self._marks)
        super().put(group)


class OwnFilter:
    """Rejects the first group that it sees, so that another one is generated."""

    def __init__(self, marks: str) -> None:
        self._marks, self._first = marks, -1

    def __call__(self, group: Group, /) -> bool:
        mark("filter", self._marks)
        self._first = group.prompt.index if self._first < 0 else self._first
        return group.prompt.index != self._first


class OwnTransport(SharedMemoryTransport):
    def __init__(self, route: Any, marks: str) -> None:
        super().__init__(route)
        self._marks = marks

    def commit(self, version: int) -> None:
        super().commit(version)
        mark("transport", self._marks)


class OwnLauncher(SglangLauncher):
    def __init__(self, spec: Any, site: Any, marks: str) -> None:
        super().__init__(spec, site)
        self._marks = marks

    def launch(self, port: int) -> ServerProcess:
        mark("launcher", self._marks)
        return super().launch(port)


def own_loop(run: Session, marks: str) -> None:
    mark("loop", marks)
    loops.colocated(run)


class OwnTracker:
    def __init__(self, run: TrackedRun, marks: str) -> None:
        self._marks = marks

    def log(self, iteration: int, metrics: Any) -> None:
        if "own_number" in metrics:
            mark(f"tracker {metrics['own_number']:g}", self._marks)

    def close(self) -> None:
        mark("tracker closed", self._marks)

"""The processes of a trainer's ranks, from their start to their end. A trainer whose ranks are lost gets others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rlscale.config.schema import Config
from rlscale.config.schema.cluster_config import Device
from rlscale.run.processes.actor_host import Place
from rlscale.run.processes.actor_settings import rank_settings
from rlscale.run.processes.actors import TrainerActor
from rlscale.run.processes.forks import Forks
from rlscale.run.processes.placement import Layout
from rlscale.run.processes.remote_calls import Calls
from rlscale.trainer.trainer_spec import TrainerSpec

START = "cluster.start_timeout_s"


class RankActors:
    """One actor per rank."""

    def __init__(
        self, layout: Layout, nodes: list[str], calls: Calls, logs: Path, config: Config, forks: Forks
    ) -> None:
        """Create the processes; they import the trainer's class while others start."""
        trainer, device = config.trainer._target_, config.cluster.device
        self._calls = calls
        self._one_machine = len({slot.node for slot in layout.ranks}) == 1
        self.handles: list[Any] = []
        """Handles of the ranks, in their order."""
        self.machines = tuple(nodes[slot.node] for slot in layout.ranks)
        """Ids of their machines."""
        for one in rank_settings(config, layout, logs):
            place = Place(nodes[one.node], forks.runtime_env(one.environment))
            arguments = (str(one.log), one.rank, len(layout.ranks), one.local, one.threads)
            self.handles.append(calls.host.start(TrainerActor, place, *arguments))
            calls.processes.add(f"rank {one.rank}", one.log, self.handles[-1])
        self._preloading = [rank.preload.remote(device is Device.cpu, trainer) for rank in self.handles]

    def start(self, spec: TrainerSpec, timeout_s: float) -> list[int]:
        """Form the process groups and build the models; the number of the shard that each rank computes."""
        address, port = self.meeting_point(timeout_s)
        starting = [rank.start.remote(spec, address, port) for rank in self.handles]
        self._calls.wait(starting, "trainer start", timeout_s=timeout_s, limit=START, heed_stop=True)
        return self._calls.wait([rank.call.remote("data_parallel_rank") for rank in self.handles], "trainer start")

    def meeting_point(self, timeout_s: float) -> tuple[str, int]:
        """Address and port of rank 0, once all ranks have imported what they need."""
        self._calls.wait(self._preloading, "trainer start", timeout_s=timeout_s, limit=START, heed_stop=True)
        address, port = self._calls.one(
            self.handles[0].address.remote(self._one_machine), "trainer start", timeout_s=timeout_s, limit=START
        )
        return address, port

    def end(self, wait_s: float = 0.0) -> None:
        """End the processes, frozen ones too, and wait at most so long until they have given back what they hold."""
        self._calls.processes.end_frozen(self.handles)
        for rank in self.handles:
            self._calls.host.end(rank)
        self._calls.processes.forget(self.handles, wait_s)
        self.handles = []

"""Which rank and which engine gets which device of which machine. Pure arithmetic: no Ray, no GPU needed to test it."""

from __future__ import annotations

from dataclasses import dataclass, replace

from rlscale.config.schema import Config
from rlscale.config.schema.cluster_config import ClusterConfig, Device, Placement
from rlscale.config.sizes import Sizes


@dataclass(frozen=True)
class Slot:
    """Devices on one machine: its number in the cluster and its GPUs (none on the CPU)."""

    node: int
    gpus: tuple[int, ...] = ()


@dataclass(frozen=True)
class Layout:
    """One slot per trainer rank, one per engine of the policy that the run starts, one per engine that evaluates."""

    ranks: tuple[Slot, ...]
    engines: tuple[Slot, ...]
    eval_engines: tuple[Slot, ...] = ()

    @property
    def nodes(self) -> int:
        """Machines in use; the first one always is."""
        return 1 + max((slot.node for slot in (*self.ranks, *self.engines, *self.eval_engines)), default=0)


def shares_devices(cluster: ClusterConfig) -> bool:
    """Whether trainer and engines take turns on the same GPUs. On the CPU there is nothing to take turns on."""
    return cluster.device is Device.cuda and cluster.placement is Placement.colocated


def lay_out_run(config: Config) -> Layout:
    """The layout of a run. Engines that somebody else started take no slot; those that evaluate come last."""
    sizes = Sizes.of(config)
    engines = sizes.started_engines + sizes.eval_engines
    layout = lay_out(config.cluster, sizes.trainer_ranks, engines, config.rollout.gpus_per_engine)
    own = layout.engines[: sizes.started_engines]
    return replace(layout, engines=own, eval_engines=layout.engines[sizes.started_engines :])


def lay_out(cluster: ClusterConfig, ranks: int, engines: int, gpus_per_engine: int) -> Layout:
    """Place `ranks` trainer ranks and `engines` engines of `gpus_per_engine` GPUs each.

    Colocated, both count from the first GPU and share; disaggregated, the engines own the last machines
    (`cluster.rollout_nodes`) or the last GPUs of the one machine (`cluster.rollout_gpus`).
    The sizes were checked against the cluster before; ValueError here means that check is wrong.
    """
    if cluster.device is Device.cpu:
        return Layout((Slot(0),) * ranks, (Slot(0),) * engines)
    devices = [(node, gpu) for node in range(cluster.nodes) for gpu in range(cluster.gpus_per_node)]
    trainer_devices, engine_devices = devices, devices
    if cluster.placement is Placement.disaggregated:
        owned = cluster.rollout_nodes * cluster.gpus_per_node + cluster.rollout_gpus
        trainer_devices, engine_devices = devices[: len(devices) - owned], devices[len(devices) - owned :]
    if ranks > len(trainer_devices) or engines * gpus_per_engine > len(engine_devices):
        raise ValueError(f"{ranks} ranks and {engines} engines of {gpus_per_engine} GPUs do not fit {cluster}")
    rank_slots = tuple(Slot(node, (gpu,)) for node, gpu in trainer_devices[:ranks])
    return Layout(rank_slots, tuple(_engine_slots(engine_devices, engines, gpus_per_engine)))


def _engine_slots(devices: list[tuple[int, int]], engines: int, size: int) -> list[Slot]:
    """Consecutive GPUs for each engine; one that is larger than a machine is started on the first of its machines."""
    slots = []
    for engine in range(engines):
        own = devices[engine * size : (engine + 1) * size]
        node = own[0][0]
        slots.append(Slot(node, tuple(gpu for at, gpu in own if at == node)))
    return slots

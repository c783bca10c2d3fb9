"""Which rank and which engine gets which device of which machine. Pure arithmetic: no Ray, no GPU needed to test it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate

from rlscale.config.derived.gpus_beside import first_gpus
from rlscale.config.derived.sizes import Sizes
from rlscale.config.schema import Config
from rlscale.config.schema.cluster_config import ClusterConfig, Device, Placement


@dataclass(frozen=True)
class Slot:
    """Devices on one machine: its number in the cluster and its GPUs (none on the CPU)."""

    node: int
    gpus: tuple[int, ...] = ()


@dataclass(frozen=True)
class Layout:
    """One slot per trainer rank, one per engine that the run starts: of the policy, those that evaluate, and those of
    each model beside it, by its name."""

    ranks: tuple[Slot, ...]
    engines: tuple[Slot, ...]
    eval_engines: tuple[Slot, ...] = ()
    beside: Mapping[str, tuple[Slot, ...]] = field(default_factory=dict)

    @property
    def nodes(self) -> int:
        """Machines in use; the first one always is."""
        beside = [slot for slots in self.beside.values() for slot in slots]
        return 1 + max((slot.node for slot in (*self.ranks, *self.engines, *self.eval_engines, *beside)), default=0)


def shares_devices(cluster: ClusterConfig) -> bool:
    """Whether trainer and engines take turns on the same GPUs. On the CPU there is nothing to take turns on."""
    return cluster.device is Device.cuda and cluster.placement is Placement.colocated


def lay_out_run(config: Config) -> Layout:
    """The layout of a run. Engines that somebody else started take no slot; behind the policy's come those that
    evaluate, then those of the models beside it."""
    sizes = Sizes.of(config)
    own_gpus = config.rollout.engine_gpus if sizes.started_engines else ()
    gpus = (*own_gpus, *(config.rollout.gpus_per_engine,) * sizes.eval_engines)
    layout = lay_out(config.cluster, sizes.trainer_ranks, gpus)
    own = layout.engines[: sizes.started_engines]
    return replace(
        layout,
        engines=own,
        eval_engines=layout.engines[sizes.started_engines :],
        beside=lay_out_beside(config, sizes),
    )


def lay_out_beside(config: Config, sizes: Sizes) -> dict[str, tuple[Slot, ...]]:
    """The slots of the engines of each model of `rollout.models`, on the engines' GPUs that the policy leaves."""
    cluster = config.cluster
    if cluster.device is Device.cpu:
        return {name: (Slot(0),) * number for name, number in sizes.beside.items()}
    devices, found = _devices(cluster)[1], {}
    firsts, _ = first_gpus(config, sizes)
    for name, own in firsts.items():
        size = config.rollout.models[name].gpus_per_engine
        found[name] = tuple(_slot(devices[first : first + size]) for first in own)
    return found


def lay_out(cluster: ClusterConfig, ranks: int, engines: Sequence[int]) -> Layout:
    """Place `ranks` trainer ranks, and engines of so many GPUs each.

    Colocated, both count from the first GPU and share; disaggregated, the engines own the last machines
    (`cluster.rollout_nodes`) or the last GPUs of the one machine (`cluster.rollout_gpus`).
    The sizes were checked against the cluster before; ValueError here means that check is wrong.
    """
    if cluster.device is Device.cpu:
        return Layout((Slot(0),) * ranks, (Slot(0),) * len(engines))
    trainer_devices, engine_devices = _devices(cluster)
    if ranks > len(trainer_devices) or sum(engines) > len(engine_devices):
        raise ValueError(f"{ranks} ranks and engines of {engines} GPUs do not fit {cluster}")
    rank_slots = tuple(Slot(node, (gpu,)) for node, gpu in trainer_devices[:ranks])
    return Layout(rank_slots, tuple(_engine_slots(engine_devices, engines)))


def _devices(cluster: ClusterConfig) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """The GPUs of the trainer and those of the engines, each as its machine and its number there."""
    devices = [(node, gpu) for node in range(cluster.nodes) for gpu in range(cluster.gpus_per_node)]
    if cluster.placement is not Placement.disaggregated:
        return devices, devices
    owned = cluster.rollout_nodes * cluster.gpus_per_node + cluster.rollout_gpus
    return devices[: len(devices) - owned], devices[len(devices) - owned :]


def _engine_slots(devices: list[tuple[int, int]], engines: Sequence[int]) -> list[Slot]:
    """Consecutive GPUs for each engine."""
    firsts = accumulate(engines, initial=0)
    return [_slot(devices[first : first + size]) for first, size in zip(firsts, engines, strict=False)]


def _slot(devices: list[tuple[int, int]]) -> Slot:
    """That of an engine; one that is larger than a machine is started on the first of its machines."""
    node, first = devices[0]
    if first and devices[-1][0] != node:
        raise ValueError(f"an engine of {len(devices)} GPUs would begin on GPU {first} of a machine and end on another")
    return Slot(node, tuple(gpu for at, gpu in devices if at == node))

"""Which machines a run uses and how trainer and engines share them."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from rlscale.config.schema.section import Section


class Device(Enum):
    """What the trainer and the engines compute on."""

    cpu = "cpu"
    cuda = "cuda"


class Placement(Enum):
    """Whether trainer and engines share devices in turn or have their own."""

    colocated = "colocated"
    disaggregated = "disaggregated"


@dataclass
class ClusterConfig(Section):
    """Machines and placement."""

    device: Device = Device.cpu
    """What the trainer and the engines compute on."""
    placement: Placement = Placement.colocated
    """Whether trainer and engines share devices in turn or have their own."""
    nodes: int = 1
    """Machines of the cluster."""
    gpus_per_node: int = 0
    """GPUs of each machine; 0 on the CPU."""
    rollout_nodes: int = 0
    """Of `cluster.nodes`, machines whose GPUs belong to the engines when disaggregated."""
    rollout_gpus: int = 0
    """GPUs of the engines when disaggregated on one machine (taken from its end)."""
    max_trainer_ranks: int = 2
    """Trainer ranks that may share the cores of a CPU machine."""
    max_engines: int = 2
    """Engines that may share the cores of a CPU machine."""
    memory_gb: float | None = None
    """Gigabytes of memory that training may take on a CPU machine; null: no limit of its own."""
    host: str = "127.0.0.1"
    """Address that engines and the router listen on; 0.0.0.0 only in a closed network."""
    ray_address: str | None = None
    """Address of a running Ray cluster; null starts one on this machine for this run."""
    start_timeout_s: float = 300.0
    """Seconds that engines and trainer ranks may take to start."""
    call_timeout_s: float = 1800.0
    """Seconds after which a call to a rank or to the rollout service counts as hung."""
    engine_restarts: int = 5
    """Times that dead engines are restarted before the run stops."""

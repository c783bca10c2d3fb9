"""Which machines a run uses and how trainer and engines share them."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from rlscale.config.schema.about import Limit, PathKind, Scope, Unread, Where, bounded, key
from rlscale.config.schema.limits import CPU_PROCESSES, DEVICES, PATIENCE, YEAR
from rlscale.config.schema.section import Section

LOOPBACK_HOSTS = ("127.0.0.1", "localhost", "::1")
"""Names of this machine that nobody else reaches."""


class Device(Enum):
    """What the trainer and the engines compute on."""

    cpu = "cpu"
    cuda = "cuda"


class Placement(Enum):
    """Whether trainer and engines share devices in turn or have their own."""

    colocated = "colocated"
    disaggregated = "disaggregated"


_CPU_ONLY = Unread(Where.gpus, " is read on a CPU machine only; leave it out")
_NO_GPUS = Unread(Where.cpu, " has no meaning on the CPU; set it to 0, or cluster.device=cuda")
_NO_GPU_MEMORY = Unread(Where.cpu, " has no meaning on the CPU, where cluster.memory_gb counts; leave it out")
_ONE_MACHINE = Unread(Where.cpu, ": a CPU run uses one machine; set it to 1")
_SHARED = Unread(
    lambda cluster: cluster.placement is Placement.colocated and cluster.gpus_per_node > 0,
    " is not read when colocated; set it to 0, or disaggregate",
)


@dataclass
class ClusterConfig(Section):
    """Machines and placement."""

    device: Device = Device.cpu
    """What the trainer and the engines compute on."""
    placement: Placement = Placement.colocated
    """Whether trainer and engines share devices in turn or have their own."""
    nodes: int = bounded(1, at_least=1, limit=DEVICES, unread=[_ONE_MACHINE])
    """Machines of the cluster."""
    gpus_per_node: int = bounded(0, at_least=0, limit=DEVICES, unread=[_NO_GPUS])
    """GPUs of each machine; 0 on the CPU."""
    rollout_nodes: int = bounded(0, at_least=0, limit=DEVICES, unread=[_NO_GPUS, _SHARED])
    """Of `cluster.nodes`, machines whose GPUs belong to the engines when disaggregated."""
    rollout_gpus: int = bounded(0, at_least=0, limit=DEVICES, unread=[_NO_GPUS, _SHARED])
    """GPUs of the engines when disaggregated on one machine (taken from its end)."""
    max_trainer_ranks: int = bounded(2, at_least=1, limit=CPU_PROCESSES, scope=Scope.execution, unread=[_CPU_ONLY])
    """Trainer ranks that may share the cores of a CPU machine."""
    max_engines: int = bounded(2, at_least=1, limit=CPU_PROCESSES, scope=Scope.execution, unread=[_CPU_ONLY])
    """Engines that may share the cores of a CPU machine."""
    memory_gb: float | None = bounded(
        None,
        above=0,
        limit=Limit(1e6, "no machine has that much memory"),
        scope=Scope.execution,
        unread=[_CPU_ONLY],
    )
    """Gigabytes of memory that training may take on a CPU machine; null: no limit of its own."""
    gpu_memory_gb: float | None = bounded(
        None,
        above=0,
        limit=Limit(1e4, "no GPU has that much memory"),
        scope=Scope.execution,
        unread=[_NO_GPU_MEMORY],
    )
    """Gigabytes of memory of a GPU, against which `python -m rlscale plan` holds a run; null: 80."""
    host: str = key("127.0.0.1", scope=Scope.execution)
    """Address that engines listen on, and the router where the driver is on another machine than it; 0.0.0.0 only in a
    closed network."""
    ray_address: str | None = key(None, scope=Scope.this_run)
    """Address of a running Ray cluster; null starts one on this machine for this run."""
    warm: str | None = key(None, path=PathKind.path, scope=Scope.this_run, unread=[_CPU_ONLY])
    """File of a running `python -m rlscale warm` whose processes this run forks its own from; null: from its own."""
    start_timeout_s: float = bounded(300.0, above=0, limit=YEAR, scope=Scope.execution)
    """Seconds that engines and trainer ranks may take to start."""
    call_timeout_s: float = bounded(1800.0, above=0, limit=YEAR, scope=Scope.execution)
    """Seconds after which a call to a rank or to the rollout service counts as hung."""
    hang_factor: float | None = bounded(20.0, at_least=2, limit=PATIENCE, scope=Scope.execution)
    """How many times the longest of its kind before a training step or a pass may take, and six times
    `cluster.answer_timeout_s`, until its ranks count as hung and others come (`run.recover`); null: only
    `cluster.call_timeout_s` counts."""
    answer_timeout_s: float = bounded(20.0, above=0, limit=YEAR, scope=Scope.execution)
    """Seconds after which an engine that neither computes nor answers, or gives its requests no tokens, a router that
    does not answer, and a rank that is frozen are started again; another process that is frozen ends the run."""
    engine_restarts: int = bounded(5, at_least=0, limit=PATIENCE, scope=Scope.execution)
    """Times within an hour that an engine, or a router, which died or does not answer is started again. After that the
    run goes on without that engine, or ends (`rollout.engines_at_least`)."""

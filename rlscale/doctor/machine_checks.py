"""Checks of one machine: its GPUs, memory, disks, limits and ports."""

from __future__ import annotations

from collections.abc import Iterator
from math import isnan, nan

from rlscale.config.derived.cpu_threads import trainer_threads
from rlscale.config.derived.object_store import store_bytes
from rlscale.config.derived.sizes import Sizes
from rlscale.config.schema import Config
from rlscale.config.schema.cluster_config import Device
from rlscale.doctor.facts import Facts
from rlscale.doctor.finding import Finding, ok, problem, warning
from rlscale.doctor.needed import Needed

GB = 1e9
_USED = 2e9
"""Bytes of a GPU that somebody uses who is not only its display."""
_SHARED = 1e9
"""Of shared memory: Ray's objects, NCCL's and the loaders' buffers."""
_OPEN_FILES = 4096
_BUSY_PORTS = 10


def devices(config: Config, facts: Facts) -> Iterator[Finding]:
    """As many GPUs as the run uses, free and large enough; on the CPU as many cores as processes."""
    wanted = config.cluster.gpus_per_node
    if config.cluster.device is Device.cpu:
        yield from _cores(config, facts)
        return
    if len(facts.gpus) < wanted:
        yield problem(
            f"{len(facts.gpus)} GPUs, and cluster.gpus_per_node={wanted}",
            "lower it, or choose cluster=local_cpu"
            if not facts.gpus
            else "lower it, or CUDA_VISIBLE_DEVICES hides some",
        )
        return
    used = [number for number, gpu in enumerate(facts.gpus[:wanted]) if gpu.used_bytes > _USED]
    if used:
        are = "GPU {} is" if len(used) == 1 else "GPUs {} are"
        yield problem(f"{are.format(', '.join(map(str, used)))} in use", "end what runs there (nvidia-smi)")
    known = [gpu.total_bytes for gpu in facts.gpus[:wanted] if not isnan(gpu.total_bytes)]
    smallest = min(known, default=nan) / GB
    said = config.cluster.gpu_memory_gb
    if said is not None and smallest < 0.97 * said:
        yield problem(f"GPUs of {smallest:.0f} GB, and cluster.gpu_memory_gb={said:g}", "set it to what there is")
    elif not used:
        yield ok(f"{wanted} x {facts.gpus[0].name}{f', {smallest:.0f} GB' if known else ''}, driver {facts.driver}")


def _cores(config: Config, facts: Facts) -> Iterator[Finding]:
    sizes = Sizes.of(config)
    busy = max(sizes.trainer_ranks * trainer_threads(config), sizes.all_engines)
    if busy > facts.cores:
        yield warning(
            f"{busy} threads of ranks, or engines, share {facts.cores} cores, which is slow",
            "lower parallel.data or rollout.engines",
        )
    else:
        yield ok(f"CPU, {facts.cores} cores")


def memory(config: Config, facts: Facts) -> Iterator[Finding]:
    """The host's memory holds what the plan says the run needs of it."""
    needed = Needed.of(config).host_bytes
    there, free = facts.memory_bytes / GB, facts.available_bytes / GB
    if needed is None:
        yield warning(
            f"{free:.0f} of {there:.0f} GB free; what the run needs is not known", "see python -m rlscale plan"
        )
    elif needed > facts.memory_bytes:
        yield problem(f"{there:.0f} GB, and the run needs about {needed / GB:.0f} GB", "plan --solve finds what fits")
    elif needed > facts.available_bytes:
        yield warning(
            f"{free:.0f} of {there:.0f} GB free, and the run needs about {needed / GB:.0f} GB", "end what else runs"
        )
    else:
        yield ok(f"{free:.0f} of {there:.0f} GB free, about {needed / GB:.1f} GB needed")


def disk(config: Config, facts: Facts) -> Iterator[Finding]:
    """Folders that can be written to, with room for the checkpoints that are kept and for what engines start from."""
    needed = Needed.of(config)
    for key, folder in facts.folders.items():
        wanted = needed.scratch_bytes if key == "run.scratch" else needed.output_bytes
        free = f"{folder.free_bytes / GB:.0f} GB free"
        if not folder.writable:
            yield problem(f"{key}={folder.path} cannot be written to", f"choose another folder as {key}")
        elif wanted is not None and folder.free_bytes < wanted:
            yield problem(
                f"{key}={folder.path}: {free}, about {wanted / GB:.0f} GB needed", f"make room, or move {key}"
            )
        elif wanted is not None and folder.free_bytes < 2 * wanted:
            yield warning(f"{key}={folder.path}: {free}, about {wanted / GB:.0f} GB needed", "make room")
        else:
            yield ok(f"{key}={folder.path}: {free}")


def shared_memory(config: Config, facts: Facts) -> Iterator[Finding]:
    """Room in /dev/shm, of which Ray's object store has a part."""
    store = store_bytes(config.cluster, facts.memory_bytes)
    room, copied = min(store, facts.shared_bytes), Needed.of(config).copied_bytes or 0.0
    if facts.shared_bytes < _SHARED:
        yield problem(
            f"{facts.shared_bytes / GB:.2f} GB free in /dev/shm, where Ray and NCCL pass data on",
            "start the container with --shm-size=64g, or mount a larger one",
        )
    elif copied > room:
        yield warning(
            f"copies of the trainer's state for lost ranks take {copied / GB:.0f} GB, and Ray's object store has "
            f"{room / GB:.0f} GB: it puts the others on disk, and ranks wait for that",
            "set checkpoint.in_memory=false" + (", or make /dev/shm larger" if copied <= store else ""),
        )
    else:
        yield ok(f"{facts.shared_bytes / GB:.0f} GB free in /dev/shm")


def open_files(config: Config, facts: Facts) -> Iterator[Finding]:
    """A connection for every request that is out, besides what processes have open anyway."""
    rollout = config.rollout
    needed = max(_OPEN_FILES, 1024 + 2 * rollout.groups_per_iteration * rollout.samples_per_group)
    if facts.open_files >= needed:
        yield ok(f"{facts.open_files:,} open files")
        return
    may = f"ulimit -n {needed}" if facts.open_files_most >= needed else "raise nofile in /etc/security/limits.conf"
    kind = problem if facts.open_files < 1024 else warning
    yield kind(f"{facts.open_files:,} open files of a process, {needed:,} are needed", may)


def ports(config: Config, facts: Facts) -> Iterator[Finding]:
    """Somewhere to listen."""
    there = facts.listening
    if not there.can_bind:
        yield problem(
            f"cluster.host={there.host} is not an address of this machine",
            "127.0.0.1 on one machine, 0.0.0.0 on several",
        )
    elif there.free_of_20 < _BUSY_PORTS:
        yield problem(
            f"of 20 ports from 20000 to 31999 {there.free_of_20} are free", "end what listens there (ss -ltn)"
        )
    elif there.outgoing_from < 32_000:
        yield warning(
            f"outgoing connections may take ports from {there.outgoing_from}, where servers of the run listen",
            "sysctl -w net.ipv4.ip_local_port_range='32768 60999'",
        )
    else:
        yield ok(f"free on {there.host}")

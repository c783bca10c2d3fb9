"""What it takes to bring a new version of the weights to a real engine, by every transport, against a plain copy.

`python benchmarks/weight_transports.py [layers] [rounds] [dtype] [bucket_mb]`: a random Qwen3 of 12.6M parameters a
layer and 66M of embeddings (16 layers: 0.27B), one engine, one sender of one thread that has the whole model. A version
is Adam's first step of lr 1e-6. WAYS=shared_memory,disk measures some of them only.
Seconds of the wall, medians of the rounds after a first one, and computing seconds of the sender and of the engine;
the transports take turns.
"""

from __future__ import annotations

import os
import secrets
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch
import torch.distributed as dist
from machine import describe_machine, load_average

from rlscale.config.composition.compose import compose
from rlscale.config.schema.cluster_config import Device
from rlscale.data.folders.model_folder import ensure_model_folder
from rlscale.serve.engine_process import start_fork_server
from rlscale.serve.receiver import EngineReceiver
from rlscale.serve.server_spec import ServerSpec, fork_server_environment
from rlscale.serve.supervisor import Supervisor
from rlscale.weights.bucket import Bucket
from rlscale.weights.load import WeightFolder
from rlscale.weights.transports.broadcast import BroadcastTransport
from rlscale.weights.transports.delta import DeltaTransport
from rlscale.weights.transports.disk import DiskTransport
from rlscale.weights.transports.route import Route
from rlscale.weights.transports.shared_memory import SharedMemoryTransport
from rlscale.weights.transports.transport import Transport

LR = 1e-6
SIZES = {
    "hidden_size": 1024,
    "intermediate_size": 3072,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 64,
    "vocab_size": 32_000,
}
Named = list[tuple[str, torch.Tensor]]


@dataclass(frozen=True)
class Cost:
    """Of one version, in seconds."""

    wall: float
    sender: float
    engine: float
    paused: float


def main() -> None:
    layers, rounds, dtype, bucket_mb = (*sys.argv[1:], *("16", "5", "float32", "64")[len(sys.argv) - 1 :])
    torch.set_num_threads(1)
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    with tempfile.TemporaryDirectory(prefix="transports-") as name:
        folder, key = Path(name), secrets.token_hex(16)
        forks = start_fork_server(fork_server_environment(folder), folder)
        supervisor = Supervisor(folder / "logs", folder / "scratch", key, fork_server=forks.address)
        try:
            model = model_folder(int(layers), dtype, folder)
            options = {"max_total_tokens": 4096, "disable_radix_cache": True}
            engine = supervisor.start_engine(ServerSpec("engine-0", str(model), Device.cpu, dtype, options=options))
            measure(EngineReceiver(engine, key), model, folder, int(rounds), int(bucket_mb) * 2**20)
        finally:
            supervisor.stop()
            forks.stop()


def measure(receiver: EngineReceiver, model: Path, folder: Path, rounds: int, limit: int) -> None:
    with WeightFolder(model) as source:
        named = [(name, source.read(name)) for name in source.names()]
    route = Route(timeout_s=600.0, started_from=str(model), folder=str(folder / "in_flight"))
    transports: dict[str, Transport] = {
        "shared_memory": SharedMemoryTransport(route),
        "broadcast": BroadcastTransport(route),
        "disk": DiskTransport(route, keep=1),
        "delta": DeltaTransport(route, folder=str(folder / "xor"), encoding="xor"),
    }
    transports = {way: transports[way] for way in os.environ.get("WAYS", ",".join(transports)).split(",")}
    nbytes = sum(tensor.nbytes for _, tensor in named)
    print(", ".join(f"{key} {value}" for key, value in describe_machine().items()))
    print(f"{sum(t.numel() for _, t in named) / 1e9:.3f}B parameters, {nbytes / 1e9:.2f} GB; load {load_average()}")
    found: dict[str, list[Cost]] = {}
    version = 0
    for transport in transports.values():
        transport.connect([receiver])
    for _ in range(rounds + 1):
        found.setdefault("plain copy", []).append(plain_copy(named))
        for way, transport in transports.items():
            version += 1
            step(named, version)
            found.setdefault(way, []).append(sent(transport, receiver, named, version, limit))
    for transport in transports.values():
        transport.close()
    print(
        "| by | wall, s | GB/s | sender, CPU s | engine, CPU s | engine paused beside loading, s |\n" + "|---" * 6 + "|"
    )
    for way, costs in found.items():
        print(row(way, costs[1:], nbytes))


def row(way: str, costs: Sequence[Cost], nbytes: int) -> str:
    wall, sender, engine, paused = (
        statistics.median(getattr(cost, part) for cost in costs) for part in ("wall", "sender", "engine", "paused")
    )
    return f"| {way} | {wall:.2f} | {nbytes / wall / 1e9:.2f} | {sender:.2f} | {engine:.2f} | {paused:.3f} |"


def plain_copy(named: Named) -> Cost:
    """Of all weights into memory that was used before."""
    largest = max(tensor.numel() for _, tensor in named)
    room = torch.zeros(largest, dtype=named[0][1].dtype)
    began, before = time.perf_counter(), time.process_time()
    for _, tensor in named:
        room[: tensor.numel()].copy_(tensor.flatten())
    return Cost(time.perf_counter() - began, time.process_time() - before, 0.0, 0.0)


def sent(transport: Transport, receiver: EngineReceiver, named: Named, version: int, limit: int) -> Cost:
    """One version, from the first bucket to the engine's last answer."""
    began, own, engine = time.perf_counter(), time.process_time(), engine_seconds()
    for bucket in buckets(named, version, limit):
        transport.send(bucket)
    transport.commit(version)
    wall, own, engine = time.perf_counter() - began, time.process_time() - own, engine_seconds() - engine
    assert receiver.weight_version() == str(version)
    return Cost(wall, own, engine, receiver.paused_s)


def buckets(named: Named, version: int, limit: int) -> Iterator[Bucket]:
    """Of at most `limit` bytes."""
    part: Named = []
    for each in named:
        if part and sum(t.nbytes for _, t in part) + each[1].nbytes > limit:
            yield Bucket(part, version)
            part = []
        part.append(each)
    yield Bucket(part, version)


def step(named: Named, version: int) -> None:
    """Adam's first step, whatever the gradients: lr up or down, rounded to the weights' type."""
    random = torch.Generator().manual_seed(version)
    for _, tensor in named:
        signs = torch.randint(0, 2, tensor.shape, generator=random, dtype=torch.int8)
        tensor.copy_(tensor.float() + LR * (2.0 * signs - 1.0))


def engine_seconds() -> float:
    """Computing seconds so far of all other processes of this benchmark."""
    found = 0.0
    for process in psutil.Process(os.getpid()).children(recursive=True):
        try:
            times = process.cpu_times()
        except psutil.Error:
            continue
        found += times.user + times.system
    return found


def model_folder(layers: int, dtype: str, folder: Path) -> Path:
    """A random Qwen3."""
    sizes = [f"model.create.architecture.{key}={value}" for key, value in SIZES.items() if key != "vocab_size"]
    depth = f"model.create.architecture.num_hidden_layers={layers}"
    config = compose(
        None, [*sizes, depth, f"+model.create.architecture.vocab_size={SIZES['vocab_size']}", f"model.dtype={dtype}"]
    )
    return ensure_model_folder(config.model, folder / "scratch")


if __name__ == "__main__":
    main()

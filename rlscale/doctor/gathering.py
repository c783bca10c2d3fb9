"""Asks the machine that it runs on. Starts nothing but nvidia-smi, and writes nothing."""

from __future__ import annotations

import os
import platform
import random
import resource
import shutil
import socket
import subprocess
from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from math import nan
from pathlib import Path

import psutil

from rlscale.config.derived.data_paths import data_paths
from rlscale.config.derived.data_sections import evaluation_sections, training_sections
from rlscale.config.derived.hub_names import not_downloaded
from rlscale.config.hf_architecture import is_hub_name
from rlscale.config.machine import missing_files
from rlscale.config.schema import Config
from rlscale.config.schema.data_config import FileData
from rlscale.config.visible_gpus import visible_gpus
from rlscale.doctor.container_memory import container_memory
from rlscale.doctor.facts import Facts, Folder, Gpu, Listening
from rlscale.platform.ports import CANDIDATES, is_free

VARIABLES = ("CUDA_", "GLOO_", "HF_", "NCCL_", "OMP_", "PYTORCH_", "RAY_", "SGLANG_", "TORCH_", "TRANSFORMERS_")
"""Beginnings of the names of variables that change how a run's parts behave."""
OUTSIDE_THE_LOCK = ("transformer_engine",)
"""Packages that are used where they are installed."""
_ANY_HOST = ("0.0.0.0", "::", "")


def gather(config: Config, lock: Mapping[str, str]) -> Facts:
    """The facts of this machine, for a run of that configuration."""
    memory, bounds = psutil.virtual_memory(), container_memory()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    run, unlimited = config.run, 1 << 30
    return Facts(
        name=socket.gethostname(),
        python=platform.python_version(),
        packages={name: _version(name) for name in (*lock, *OUTSIDE_THE_LOCK)},
        cores=len(os.sched_getaffinity(0)),
        memory_bytes=min([memory.total, *(most for most, _ in bounds)]),
        available_bytes=min([memory.available, *(free for _, free in bounds)]),
        shared_bytes=_free("/dev/shm"),
        gpus=tuple(_gpus()),
        driver=next(iter(_nvidia_smi("driver_version")), ""),
        folders={"run.scratch": folder(run.scratch), **_outputs(config)},
        open_files=soft if soft != resource.RLIM_INFINITY else unlimited,
        open_files_most=hard if hard != resource.RLIM_INFINITY else unlimited,
        listening=_listening(config.cluster.host),
        unreadable=tuple(_unreadable(config)),
        to_download=tuple(not_downloaded(config)),
        offline=os.environ.get("HF_HUB_OFFLINE", "0") not in ("", "0", "false", "False"),
        hub_cache=folder(_hub_cache()),
        variables={name: value for name, value in sorted(os.environ.items()) if name.startswith(VARIABLES)},
    )


def folder(path: str) -> Folder:
    """A folder that may not be there yet: what can be written and how much fits is that of the nearest above it."""
    there = Path(path).expanduser().resolve()
    while not there.exists() and there != there.parent:
        there = there.parent
    return Folder(path, there.is_dir() and os.access(there, os.W_OK | os.X_OK), _free(str(there)))


def _outputs(config: Config) -> dict[str, Folder]:
    run = config.run
    return {"run.output": folder(run.output)} if run.output is not None else {"run.root": folder(run.root)}


def _free(path: str) -> float:
    try:
        return shutil.disk_usage(path).free
    except OSError:
        return 0.0


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _nvidia_smi(*columns: str) -> list[str]:
    """A line for each GPU; none without the driver's tool."""
    command = ["nvidia-smi", f"--query-gpu={','.join(columns)}", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    return done.stdout.strip().splitlines()


def _gpus() -> Iterator[Gpu]:
    """Those that CUDA_VISIBLE_DEVICES shows, where it names them by number."""
    found = [line.rsplit(", ", 2) for line in _nvidia_smi("name", "memory.total", "memory.used")]
    every = [Gpu(name, _bytes(total), _bytes(used)) for name, total, used in found]
    shown = visible_gpus()
    if shown is None:
        yield from every
    elif all(one.isdigit() for one in shown):
        yield from (every[int(one)] for one in shown if int(one) < len(every))
    else:
        yield from every[: len(shown)]


def _bytes(mib: str) -> float:
    """NaN where the driver does not say: `[N/A]`, as of GPUs that share the host's memory."""
    try:
        return float(mib) * 2**20
    except ValueError:
        return nan


def _listening(host: str) -> Listening:
    anywhere = "127.0.0.1" if host in _ANY_HOST else host
    drawn = random.Random(0).sample(CANDIDATES, 20)
    free = [port for port in drawn if is_free(anywhere, port)]
    range_file = Path("/proc/sys/net/ipv4/ip_local_port_range")
    outgoing = int(range_file.read_text().split()[0]) if range_file.is_file() else 32768
    return Listening(host, _can_bind(anywhere), len(free), outgoing)


def _can_bind(host: str) -> bool:
    try:
        return is_free(host, 0)
    except OSError:
        return False


def _unreadable(config: Config) -> Iterator[str]:
    yield from missing_files(config)
    for key, path in _read_files(config):
        if Path(path).exists() and not os.access(path, os.R_OK):
            yield f"{key}={path}: this user may not read it"
    if config.model.path is not None and not is_hub_name(config.model.path) and not Path(config.model.path).is_dir():
        yield f"model.path={config.model.path}: there is no such folder"


def _read_files(config: Config) -> Iterator[tuple[str, str]]:
    trained = {} if config.rollout.replay is not None else training_sections(config)
    for key, data in (trained | evaluation_sections(config)).items():
        if isinstance(data, FileData):
            yield from ((f"{key}.path", str(one.path)) for one in data_paths(data, key))


def _hub_cache() -> str:
    home = os.environ.get("HF_HOME") or "~/.cache/huggingface"
    return os.environ.get("HF_HUB_CACHE") or f"{home}/hub"

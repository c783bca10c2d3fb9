"""Can this machine run the configuration: GPUs, memory, cores, files. Imports no torch and starts nothing."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from itertools import takewhile
from pathlib import Path

from rlscale.config.checks.check_context import CheckContext
from rlscale.config.checks.model_fits import beside_gb, engine_gb, parameters_of, training_gb
from rlscale.config.derived.cpu_threads import trainer_threads
from rlscale.config.derived.data_paths import data_paths
from rlscale.config.derived.data_sections import evaluation_sections, training_sections
from rlscale.config.derived.needs import Needs
from rlscale.config.derived.said_options import said_options
from rlscale.config.derived.sizes import Sizes
from rlscale.config.errors import ConfigError
from rlscale.config.hf_architecture import read_architecture
from rlscale.config.keys import keys
from rlscale.config.schema import Config
from rlscale.config.schema.about import PathKind
from rlscale.config.schema.cluster_config import Device
from rlscale.config.schema.data_config import FileData
from rlscale.config.schema.model_config import ModelConfig
from rlscale.config.visible_gpus import visible_gpus
from rlscale.families.origin import NEITHER, holds_weights

ADAPTERS = ("adapter_config.json", "adapter.json")
"""A file of every folder that adapters can start from: in peft's form, and a checkpoint of them."""


def check_machine(config: Config) -> list[str]:
    """Check a configuration that `check` accepted against this machine. Returns notes.

    Raises ConfigError with one line per problem. With `cluster.ray_address` the run uses other machines than this one,
    so nothing is checked and a note says so.
    """
    if config.cluster.ray_address is not None:
        address = config.cluster.ray_address
        return [f"cluster.ray_address={address}: GPUs, memory and files of that cluster are not checked from here"]
    if problems := [*missing_files(config), *shortcomings(config)]:
        raise ConfigError(problems)
    context = _context(config)
    return [] if context.on_gpus else [*_cores(context)]


def missing_files(config: Config) -> list[str]:
    """A line for every file or folder that the configuration names and that is not there."""
    return [*_files(config)]


def shortcomings(config: Config) -> list[str]:
    """A line for everything that the run needs and this machine lacks: GPUs, or memory for what runs on the CPU."""
    context = _context(config)
    return [*(_gpus(config) if context.on_gpus else _memory(context)), *_transfer(config)]


def _context(config: Config) -> CheckContext:
    return CheckContext(config, Sizes.of(config), read_architecture(config.model))


def check_gpus(config: Config) -> None:
    """Check nothing but that this machine has the GPUs, where it is the one that runs it. Raises ConfigError."""
    cluster = config.cluster
    if cluster.device is Device.cuda and cluster.ray_address is None and (problems := [*_gpus(config)]):
        raise ConfigError(problems)


def check_starting_weights(config: Config) -> None:
    """Check nothing but that the weights to start from are there. Raises ConfigError."""
    if problems := [*_starting_weights(config)]:
        raise ConfigError(problems)


def count_gpus(root: Path = Path("/")) -> int:
    """NVIDIA GPUs that this process may use: those that the driver shows and CUDA_VISIBLE_DEVICES does not hide.

    Loads no library of the driver.
    """
    present, visible = _gpus_of_the_driver(root), visible_gpus()
    if visible is None or not present:
        return present
    return sum(1 for _ in takewhile(lambda gpu: not gpu.isdigit() or int(gpu) < present, visible))


def _gpus_of_the_driver(root: Path) -> int:
    listed = root / "proc/driver/nvidia/gpus"
    if listed.is_dir():
        return len(list(listed.iterdir()))
    # A container may hide the driver's folder and still have the devices.
    return sum(1 for device in (root / "dev").glob("nvidia*") if device.name.removeprefix("nvidia").isdigit())


def _gpus(config: Config) -> Iterator[str]:
    found, wanted = count_gpus(), config.cluster.gpus_per_node
    if found == 0:
        yield (
            f"cluster.device=cuda with cluster.gpus_per_node={wanted}, but this machine has no GPU; choose "
            "cluster=local_cpu, or give cluster.ray_address of a cluster that has them"
        )
    elif found < wanted:
        shown = " that CUDA_VISIBLE_DEVICES shows" if visible_gpus() is not None else ""
        yield f"cluster.gpus_per_node={wanted}, but this machine has {found} GPUs{shown}; lower it"


def _memory(context: CheckContext) -> Iterator[str]:
    parameters = parameters_of(context)
    if parameters is None:
        return
    config, sizes = context.config, context.sizes
    engines = sizes.engines + sizes.eval_engines
    beside = {name: sizes.beside[name] * each for name, each in beside_gb(context).items()}
    needed = sizes.data_parallel * training_gb(context, parameters) + engines * engine_gb(context, parameters)
    needed += sum(beside.values())
    present = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e9
    if needed > present:
        yield (
            f"model={config.model.name}: {sizes.data_parallel} copies in training and {engines} on engines"
            f"{''.join(f', {sizes.beside[name]} of {name}' for name in beside)} need "
            f"about {needed:.0f} GB, but this machine has {present:.0f} GB; choose a smaller model or fewer copies"
        )


def _cores(context: CheckContext) -> Iterator[str]:
    cores = len(os.sched_getaffinity(0))
    ranks, threads = context.sizes.trainer_ranks, trainer_threads(context.config)
    engines = context.sizes.all_engines
    if max(ranks * threads, engines) > cores:
        yield f"{ranks} trainer ranks of {threads} threads and {engines} engines share {cores} cores, which is slow"


def _transfer(config: Config) -> Iterator[str]:
    """What engines of several roles hand keys and values over with; it is imported by engines alone."""
    if not config.rollout.disaggregated:
        return
    said = said_options(config.rollout, "disaggregation_transfer_backend", otherwise="mooncake").values()
    named = {str(backend).partition("_")[0] for backend in said}
    for module in (one for one in ("mooncake", "nixl") if one in named and importlib.util.find_spec(one) is None):
        install = "pip install 'rlscale[disaggregation]'" if module == "mooncake" else f"install {module}"
        yield (
            f"rollout.engine_groups: engines of several roles hand over keys and values with {module}, which is not "
            f"installed; {install}"
        )


def _files(config: Config) -> Iterator[str]:
    named: list[tuple[str, str | None]] = [
        (one.name, one.value)
        for one in keys(config)
        if one.about.path is PathKind.file and not one.name.startswith("critic.")  # which has the policy's
    ]
    trained = {} if config.rollout.replay is not None else training_sections(config)
    for key, data in (trained | evaluation_sections(config)).items():
        if isinstance(data, FileData):
            named += [(f"{key}.path", str(one.path)) for one in data_paths(data, key)]
    for key, path in named:
        if path is not None and not Path(path).is_file():
            yield f"{key}={path}: there is no such file"
    yield from _starting_weights(config)


def _starting_weights(config: Config) -> Iterator[str]:
    models: list[tuple[str, ModelConfig]] = [("model.init", config.model)]
    if Needs.of(config).critic and config.critic.model.init != config.model.init:
        models.append(("critic.model.init", config.critic.model))
    lora = config.model.lora
    if lora is not None and lora.path is not None and not any((Path(lora.path) / name).is_file() for name in ADAPTERS):
        yield f"model.lora.path={lora.path}: must be a folder with adapter_config.json, or a checkpoint of adapters"
    for key, model in models:
        if model.init is None or holds_weights(Path(model.init)):
            continue
        # What a run leaves: the model in its folder, and the trainer's part of a checkpoint.
        within = [name for name in ("hf", "trainer") if holds_weights(Path(model.init) / name)]
        hint = f"; did you mean {model.init}/{within[0]}?" if within else ""
        yield f"{key}={model.init}: {NEITHER}{hint}"

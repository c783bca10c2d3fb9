"""What an engine is started with: its specification, and the options of SGLang that follow from it."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import rlscale
from rlscale.config.derived.source_sampling import MOST_WORDS
from rlscale.config.derived.streaming import IN_PARTS
from rlscale.config.errors import UserError
from rlscale.config.schema.cluster_config import Device
from rlscale.config.schema.engine_group_config import Role
from rlscale.config.visible_gpus import visible_gpus
from rlscale.families import FAMILIES
from rlscale.families.config_file import complete, problems
from rlscale.families.rotary import told_engines
from rlscale.platform import sglang_environment, sglang_headers
from rlscale.platform.ports import free_port
from rlscale.platform.process_environment import WAIT_POLICY
from rlscale.serve.served_adapters import ServedAdapters

CPU_CACHE_BYTES = 2 << 30
"""Memory that the key-value cache of a CPU engine may take by default."""

CPU_CACHE_TOKENS = 65_536
"""Most tokens of that cache; a small model reaches this first."""


_DELTA_NET = {"mamba_radix_cache_strategy": "no_buffer", "disable_overlap_schedule": True}
"""Options of a CPU engine whose model has gated delta nets: other ways to keep their states take kernels of a GPU."""

_READ_AT_IMPORT = ("SGLANG_", "SGL_", "TORCH", "PYTORCH_", "TRANSFORMERS_", "TOKENIZERS_", "HF_", "PYTHONPATH")
"""Beginnings of the names of variables that may be read when SGLang, torch or transformers is imported."""

_FILTERS = "SGLANG_MAMBA_CONV_DTYPE"
"""In which type the filters of gated delta nets keep their last tokens; SGLang takes bfloat16 for every model."""

_ADDRESS = "SGLANG_HOST_IP"
"""The address under which engines of several roles find each other; SGLang takes that of the default route."""

_EVERY_ADDRESS = ("0.0.0.0", "::")

_NAMED = "SGLANG_DISAGGREGATION_SAMPLING_MASK_MAX_TOKENS"
"""Of how many words the first token can have been drawn, where they are to be named and another engine samples it."""

_EARLY = "SGLANG_DISAGG_PREFILL_EARLY_SEND_CACHED_PREFIX"
"""Whether what the cache has of a prompt is handed over before the rest is there, which takes an event of a GPU."""

_READ_LATER = (
    *sglang_headers.ENVIRONMENT,
    _FILTERS,
    _ADDRESS,
    _EARLY,
    _NAMED,
    "SGLANG_CACHE_DIR",
    "HF_HOME",
    "TORCHINDUCTOR_CACHE_DIR",
)
"""Those of them that are read when a server starts, or whose value makes no difference there.

Importing torch._inductor sets the last one in the importing process: a driver has it by the time it starts engines.
"""


@dataclass(frozen=True)
class ServerSpec:
    """One engine. Paths are on the machine that starts it."""

    name: str
    """Unique on its machine; names the log file."""
    model_path: str
    """Folder with config, tokenizer and weights."""
    device: Device
    dtype: str = "float32"
    """Type of the weights, as SGLang spells it."""
    host: str = "127.0.0.1"
    """Address to listen on."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Options of SGLang's ServerArgs by their own names; they win over the defaults here."""
    role: Role = Role.regular
    tensor_parallel: int = 1
    gpus: tuple[int, ...] = ()
    """GPUs of this machine that the engine uses; as many as `tensor_parallel`."""
    seed: int = 0
    memory_saver: bool = False
    """Whether the engine must be able to release its GPU memory (colocated with a trainer)."""
    routed_experts: bool = False
    """Whether the engine records which experts it sends each token to, for requests that ask."""
    adapters: ServedAdapters | None = None
    """The kind of adapters that the engine computes with; None for none."""
    quantised_activations: bool = False
    """Whether a CPU engine of FP8 weights quantises activations as GPUs do."""
    bitwise: bool = False
    """Whether its log-probs must be those of the trainer bit for bit, on the CPU."""
    threads: int = 1
    """Threads that torch uses in each process of a CPU engine; more only help large models."""
    port: int | None = None
    """Port to take if it is free."""
    start_timeout_s: float = 300.0
    """Seconds that it may take to become healthy."""


_OVERRIDES = "json_model_override_args"
DERIVED = (
    "model_path",
    "host",
    "port",
    "api_key",
    "device",
    "dtype",
    "tp_size",
    "random_seed",
    "enable_memory_saver",
    "enable_return_routed_experts",
    "disaggregation_mode",
    "disaggregation_bootstrap_port",
)
"""Options that follow from the specification and cannot be given in `ServerSpec.options`."""


def server_options(spec: ServerSpec, port: int) -> dict[str, Any]:
    """The ServerArgs of `spec` (without the API key). UserError if an option of the user's is one of `DERIVED`."""
    adapters: dict[str, Any] = {}
    if spec.adapters is not None:
        adapters = spec.adapters.options(spec.device, memory_saver=spec.memory_saver)
    taken = sorted(set(spec.options) & {*DERIVED, *adapters})
    if taken:
        raise UserError(f"rollout.sglang.{taken[0]} is set by rlscale itself; remove it")
    defaults = cpu_defaults(spec) if spec.device is Device.cpu else {}
    return {
        **defaults,
        "log_level_http": "warning",  # otherwise one line per request
        "load_format": "safetensors",  # else a folder without them is read from pickles
        **_role_defaults(spec),
        **(IN_PARTS if spec.role is Role.regular else {}),  # what was sent outlives the engine
        "served_model_name": "policy",  # else the folder's path, which the router tells whoever asks for /v1/models
        **spec.options,
        **_model_overrides(spec),
        **adapters,
        "model_path": spec.model_path,
        "host": spec.host,
        "port": port,
        "device": spec.device.value,
        "dtype": spec.dtype,
        "tp_size": spec.tensor_parallel,
        "random_seed": spec.seed,
        "enable_memory_saver": spec.memory_saver,
        "enable_return_routed_experts": spec.routed_experts,
        **_role_options(spec, port),
    }


def cpu_defaults(spec: ServerSpec) -> dict[str, Any]:
    """Options under which SGLang runs on a CPU with plain torch."""
    config = read_config(spec.model_path)
    family = FAMILIES.get(str(config.get("model_type")))
    return {
        **(_DELTA_NET if family is not None and family.delta_net else {}),
        "attention_backend": "torch_native",
        "sampling_backend": "pytorch",
        "cuda_graph_backend_decode": "disabled",
        "cuda_graph_backend_prefill": "disabled",
        "sleep_on_idle": True,  # without it an idle scheduler spins a whole core
        "skip_server_warmup": True,  # the wait for a healthy engine generates a token anyway, in 0.1 s instead of 2
        "mem_fraction_static": 0.2,
        "max_running_requests": 256,
        "max_total_tokens": cache_tokens(config),
    }


def _model_overrides(spec: ServerSpec) -> dict[str, Any]:
    """What the engine reads instead of its folder's config; what the user gives wins, key by key."""
    config = read_config(spec.model_path)
    own = {} if any(problems(config)) else told_engines(complete(config))
    if not own:
        return {}
    given = spec.options.get(_OVERRIDES) or {}
    given = json.loads(given) if isinstance(given, str) else dict(given)
    return {_OVERRIDES: json.dumps({**own, **given})}


def _role_defaults(spec: ServerSpec) -> dict[str, Any]:
    """How a CPU engine that does a part of a request hands keys and values over: by TCP, from ordinary memory."""
    if spec.role is Role.regular or spec.device is not Device.cpu:
        return {}
    backup = {"disaggregation_decode_retraction_backup": "cpu_tensor"} if spec.role is Role.decode else {}
    return {"disaggregation_transfer_backend": "mooncake_tcp", **backup}


def _role_options(spec: ServerSpec, port: int) -> dict[str, Any]:
    """Its part, and for one that reads prompts a free port where those that generate find out what it has."""
    if spec.role is Role.regular:
        return {}
    found = {"disaggregation_bootstrap_port": free_port(spec.host)} if spec.role is Role.prefill and port else {}
    return {"disaggregation_mode": spec.role.value, **found}


def read_config(model_path: str) -> dict[str, Any]:
    """The Hugging Face config of a model folder. UserError if it cannot be read."""
    path = Path(model_path) / "config.json"
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: the engine's model folder needs a readable config.json ({error})") from error


def cache_tokens(config: Mapping[str, Any]) -> int:
    """Tokens for which a CPU engine keeps keys and values (fp32): as many as fit into CPU_CACHE_BYTES."""
    heads = config.get("num_attention_heads", 1)
    head_size = config.get("head_dim") or config.get("hidden_size", 1) // heads
    per_token = 2 * 4 * config.get("num_hidden_layers", 1) * config.get("num_key_value_heads", heads) * head_size
    return max(4096, min(CPU_CACHE_TOKENS, CPU_CACHE_BYTES // per_token))


def package_root() -> str:
    """The folder that holds the package rlscale."""
    return str(Path(rlscale.__file__).resolve().parent.parent)


def base_environment() -> dict[str, str]:
    """This process's environment, with rlscale importable also where it is not installed but run from a clone."""
    root = package_root()
    path = [folder for folder in os.environ.get("PYTHONPATH", "").split(os.pathsep) if folder]
    # Once: a process started with it gives its own the same, which fork servers want.
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path if root in path else [*path, root])}


def server_environment(spec: ServerSpec, scratch: Path) -> dict[str, str]:
    """Environment of the server: this process's, with caches below `scratch` and what the device needs."""
    variables = {**_any_environment(scratch), _FILTERS: spec.dtype}
    if spec.role is not Role.regular:
        variables[_NAMED] = str(MOST_WORDS)
    if spec.device is Device.cpu:
        architectures = read_config(spec.model_path).get("architectures") or [None]
        variables.update(sglang_environment.cpu_environment(architectures[0]))
        variables.update(OMP_NUM_THREADS=str(spec.threads), OMP_WAIT_POLICY=WAIT_POLICY)
        if spec.role is not Role.regular:
            variables[_EARLY] = "0"
            if spec.host not in _EVERY_ADDRESS:
                variables[_ADDRESS] = spec.host
    else:
        variables["CUDA_VISIBLE_DEVICES"] = ",".join(_gpu_ids(spec))
    return variables


def fork_server_environment(scratch: Path) -> dict[str, str]:
    """Environment of a fork server for CPU engines of every model family that rlscale knows."""
    own = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": WAIT_POLICY}
    return {**_any_environment(scratch), **sglang_environment.cpu_environment(), **own}


def read_at_import(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables that SGLang and what it imports may read at import; an engine shares them with its fork server."""
    return {
        name: value
        for name, value in environment.items()
        if name.startswith(_READ_AT_IMPORT) and name not in _READ_LATER
    }


def _any_environment(scratch: Path) -> dict[str, str]:
    caches = (scratch / "cache").resolve()
    return {
        **base_environment(),
        **sglang_headers.ENVIRONMENT,
        "XDG_CACHE_HOME": str(caches),
        "HF_HOME": str(caches / "huggingface"),
        "HF_HUB_OFFLINE": "1",  # the model is a folder; nothing is looked up
        "SGLANG_CACHE_DIR": str(caches / "sglang"),
        "PYTHONUNBUFFERED": "1",  # the last lines before a crash reach the log
        # /health answers from the server alone: a generated token would wait behind a paused engine (and mark it as
        # failed), would run on one that released its memory, and would change the batches of a reproducible run
        "SGLANG_ENABLE_HEALTH_ENDPOINT_GENERATION": "0",
        # longer than clients and the router keep an unused connection (3 s, and under 100): the end that closes one
        # must be the end that sends, or a request that is just on its way breaks off
        "SGLANG_TIMEOUT_KEEP_ALIVE": "120",
    }


def _gpu_ids(spec: ServerSpec) -> list[str]:
    """The engine's GPUs as CUDA names them: its numbers count the GPUs that this process sees."""
    visible = visible_gpus()
    if visible is None:
        return [str(gpu) for gpu in spec.gpus]
    if spec.gpus and max(spec.gpus) >= len(visible):
        raise UserError(
            f"{spec.name} needs GPU {max(spec.gpus)} (counted from 0), but CUDA_VISIBLE_DEVICES={','.join(visible)} "
            f"shows {len(visible)}; lower cluster.gpus_per_node"
        )
    return [visible[gpu] for gpu in spec.gpus]


def engine_order(spec: ServerSpec, port: int, api_key: str) -> dict[str, Any]:
    """What the engine's program is told (`engine_main`). Holds the key: it goes through pipes only."""
    threads = spec.threads if spec.device is Device.cpu else None
    return {
        "options": server_options(spec, port),
        "api_key": api_key,
        "threads": threads,
        "quantised_activations": spec.quantised_activations,
        "bitwise": spec.bitwise,
    }

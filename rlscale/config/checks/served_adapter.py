"""Can engines compute with the adapter itself, where `weights.lora=adapter` asks for that."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from rlscale.config.checks.check_context import CheckContext
from rlscale.config.derived.said_options import said_options
from rlscale.config.schema.weights_config import SyncedLora
from rlscale.config.target_key import TARGET
from rlscale.families import FAMILIES, FolderError
from rlscale.families.config_file import complete
from rlscale.families.linears import adapted_linears, adapted_modules, linear_names
from rlscale.families.tensors import experts_of

_MERGED = "set weights.lora=merged"
_AUTO = "rlscale.weights.transports.choice.auto"
_MLP = ("gate_proj", "up_proj", "down_proj")
_OWN = (
    "enable_lora",
    "max_lora_rank",
    "lora_target_modules",
    "max_loras_per_batch",
    "max_loaded_loras",
    "lora_backend",
    "lora_paths",
    "lora_drain_wait_threshold",
    "enable_lora_overlap_loading",
)
"""Options of SGLang that follow from `model.lora`, would bring other adapters, or be in the way of an update."""


def adapters_reach_engines(context: CheckContext) -> Iterator[str]:
    """There are an adapter and engines that the run starts for it, and the way that it goes is not another's."""
    config = context.config
    if config.weights.lora is SyncedLora.merged:
        return
    if config.model.lora is None:
        yield f"weights.lora=adapter: there is no adapter without model.lora; set model.lora, or {_MERGED}"
        return
    if not context.needs.engines or config.run.generate_only:
        yield f"weights.lora=adapter is never read: no engine of this run is given weights; {_MERGED}"
        return
    if config.rollout.engine_urls:
        yield (
            "weights.lora=adapter: engines of rollout.engine_urls were not started for the adapters of this run; "
            f"leave rollout.engine_urls out, or {_MERGED}"
        )
    if config.weights.transport.get(TARGET) != _AUTO:
        yield (
            f"weights.transport={config.weights.transport.get(TARGET)} carries whole weights, and an adapter has a way "
            f"of its own; leave weights/transport=auto, or {_MERGED}"
        )
    for key in (key for option in _OWN for key in said_options(config.rollout, option)):
        yield f"{key}: follows from model.lora with weights.lora=adapter; leave it out"
    for option in ("tokenizer_worker_num", "dp_size"):
        for key, given in said_options(config.rollout, option).items():
            if given != 1:
                yield f"{key}={given}: SGLang hands an adapter to one process of these only; leave it out, or {_MERGED}"


def engines_compute_the_adapters(context: CheckContext) -> Iterator[str]:
    """Of this model, on these linears."""
    lora = context.config.model.lora
    if lora is None or not context.config.serves_adapters or context.architecture is None:
        return
    try:
        config = complete(context.architecture)
    except FolderError:  # another check says what it lacks
        return
    experts = {*linear_names(config, experts=True)}
    first = next((name for name in adapted_linears(config, lora.targets) if name in experts), None)
    yield from _unserved(config, adapted_modules(config, lora.targets), first)


def _unserved(config: Mapping[str, Any], modules: list[str], of_expert: str | None) -> Iterator[str]:
    family = str(config["model_type"])
    if not FAMILIES[family].adapters:
        yield f"weights.lora=adapter: SGLang does not serve adapters of {family} as they are trained; {_MERGED}"
    elif of_expert is not None:
        yield (
            f"weights.lora=adapter: model.lora.targets picks {of_expert}, and SGLang computes adapters of experts by "
            f"kernels of GPUs alone, whose results have not been checked here; {_MERGED}"
        )
    elif experts_of(config) and (found := [name for name in modules if name in _MLP]):
        yield (
            f"weights.lora=adapter: with adapters on {found[0]} SGLang expects some on experts, too; name attention "
            f"alone in model.lora.targets, like '*.self_attn.*', or {_MERGED}"
        )


ADAPTER_CHECKS: tuple[Callable[[CheckContext], Iterator[str]], ...] = (
    adapters_reach_engines,
    engines_compute_the_adapters,
)

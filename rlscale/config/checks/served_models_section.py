"""The models beside the policy (`rollout.models`): named, found, on devices of their own, with options that exist."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

from rlscale.config.checks.check_context import CheckContext
from rlscale.config.checks.options import check_options
from rlscale.config.derived.gpus_beside import first_gpus
from rlscale.config.errors import UserError
from rlscale.config.hf_architecture import read_architecture
from rlscale.config.schema.cluster_config import Placement
from rlscale.config.schema.component import TARGET
from rlscale.config.schema.model_config import ModelConfig
from rlscale.config.schema.served_model_config import ServedModelConfig
from rlscale.families import FAMILIES, reach_of
from rlscale.families.config_file import problems
from rlscale.families.family import Reach
from rlscale.families.rotary import Rotary

POLICY = "policy"
_OF_THE_POLICY = (
    *("chat_template", "tokenizer_path", "speculative_algorithm", "speculative_draft_model_path"),
    *("speculative_num_steps", "speculative_eagle_topk", "speculative_num_draft_tokens"),
)
"""Options that the policy's engines have from keys of their own; those of another model may be given them by name."""
_NAME = re.compile(r"[a-z][a-z0-9_-]{0,40}")


def models_are_named(context: CheckContext) -> Iterator[str]:
    """A name is a folder of logs, a part of metrics and what requests call the model."""
    for name in context.config.rollout.models:
        key = f"rollout.models.{name}"
        if name == POLICY:
            yield f"{key}: is the model that is trained, whose engines are rollout.engines; choose another name"
        elif not _NAME.fullmatch(name):
            yield f"{key}: a name has small letters, digits, - and _ only, and begins with a letter; choose another"


def models_are_found(context: CheckContext) -> Iterator[str]:
    """Each has a folder, or engines that run, or is the policy."""
    config = context.config
    for name, model in config.rollout.models.items():
        key = f"rollout.models.{name}"
        if model.follows_policy:
            yield from _follows(context, key, model)
        elif model.path is None and not model.engine_urls:
            yield (
                f"{key}: is found nowhere; give {key}.path, a Hugging Face folder or name, or {key}.engine_urls of "
                f"engines that serve it, or set {key}.follows_policy=true"
            )
        for url in model.engine_urls:
            if not url.startswith(("http://", "https://")):
                yield f"{key}.engine_urls: {url} is not an address; write it as http://host:port"
        if model.engine_key_file is not None and not model.engine_urls:
            yield f"{key}.engine_key_file is only read with {key}.engine_urls; set it to null"
    names = ", ".join(config.rollout.models)
    if names and context.supervised and not context.needs.engines:
        yield (
            f"rollout.models ({names}): supervised training (algo/loss=sft) asks them in its evaluation alone; leave "
            "them out, or set eval.enabled=true"
        )
    elif names and config.rollout.replay is not None and not context.supervised:
        yield f"rollout.models ({names}) are not read with rollout.replay, which scores nothing anew; leave them out"


def _follows(context: CheckContext, key: str, model: ServedModelConfig) -> Iterator[str]:
    """One that is the policy has its folder, and takes its weights as the policy's engines do."""
    for name, value in (("path", model.path), ("dtype", model.dtype)):
        if value is not None:
            yield f"{key}.{name} is not read with {key}.follows_policy=true: it is the policy's; leave it out"
    if model.engine_urls:
        yield (
            f"{key}.follows_policy=true: weights go to engines that the run starts only; leave {key}.engine_urls out, "
            "or set it to false"
        )
    if context.config.serves_adapters:
        yield f"{key}.follows_policy=true: requests to it name no adapter of the policy; set weights.lora=merged"
    for option in (name for name in model.sglang if name.startswith("speculative_")):
        yield (
            f"{key}.sglang.{option}: weights of the policy, which its engines take, would go to their draft, too; "
            f"leave it out, or set {key}.follows_policy=false"
        )
    if str(context.config.weights.transport.get(TARGET, "")).startswith("rlscale.weights.transports.delta."):
        yield (
            f"{key}.follows_policy=true: weights/transport=delta keeps what one group of engines holds; choose "
            "weights/transport=auto"
        )


def models_have_their_devices(context: CheckContext) -> Iterator[str]:
    """They compute while the trainer and the policy's engines do."""
    config, sizes = context.config, context.sizes
    started = {name: number for name, number in sizes.beside.items() if number}
    if not started:
        return
    theirs = " + ".join(f"rollout.models.{name}.engines={number}" for name, number in started.items())
    if not context.on_gpus:
        others = sizes.started_engines + sizes.eval_engines
        if others <= config.cluster.max_engines < others + sum(started.values()):
            yield (
                f"{theirs} beside {others} of the policy, but cluster.max_engines={config.cluster.max_engines}; lower "
                "the one or raise the other"
            )
        return
    if config.cluster.placement is Placement.colocated:
        yield (
            f"{theirs}: colocated engines leave no GPUs to others while the trainer works; use "
            "cluster.placement=disaggregated, or engines that run elsewhere (engine_urls)"
        )
        return
    for name in started:
        per, machine = config.rollout.models[name].gpus_per_engine, config.cluster.gpus_per_node
        if per > machine:
            yield (
                f"rollout.models.{name}.gpus_per_engine={per}: an engine of such a model is on one machine, which "
                f"has cluster.gpus_per_node={machine}; lower it"
            )
    needed = first_gpus(config, sizes)[1]
    if sizes.engine_gpus <= sizes.engine_devices < needed:
        yield (
            f"{theirs} x gpus_per_engine beside the policy's {sizes.engine_gpus} GPUs need {needed}, but the cluster "
            f"has {sizes.engine_devices} for engines; lower them, or raise cluster.rollout_gpus or rollout_nodes"
        )


def options_of_models_are_known(context: CheckContext) -> Iterator[str]:
    """Every option of their engines and routers."""
    cache = Path(context.config.run.scratch) / "cache"
    for name, model in context.config.rollout.models.items():
        key = f"rollout.models.{name}"
        options = {name: value for name, value in model.sglang.items() if name not in _OF_THE_POLICY}
        yield from check_options(f"{key}.sglang", "server", options, cache, context.notes)
        yield from check_options(f"{key}.router", "router", model.router, cache, context.notes)
        if model.sglang and model.engine_urls:
            yield (
                f"{key}.sglang.{min(model.sglang)} is not read with {key}.engine_urls: those engines have the options "
                "that they were started with; leave it out"
            )


def attention_of_models_sees_all_tokens(context: CheckContext) -> Iterator[str]:
    """Engines attend to all tokens of a request, and only its sender knows how long it is: they have to refuse it."""
    for name, model in context.config.rollout.models.items():
        reach = None if model.engine_urls else _reach_in_engines(context, model)
        given = model.sglang.get("context_length")
        if reach is not None and not (isinstance(given, int) and given <= reach.tokens):
            key = f"rollout.models.{name}"
            yield (
                f"{key}: the model's attention sees {reach.tokens} tokens at most ({reach.key}), which its engines do "
                f"not heed; set {key}.sglang.context_length={reach.tokens}, so that they refuse longer requests"
            )


def _reach_in_engines(context: CheckContext, model: ServedModelConfig) -> Reach | None:
    """How many tokens attention should see at most where engines have no such limit and requests may be longer."""
    architecture = context.architecture
    if not model.follows_policy:
        if model.path is None:
            return None
        try:
            architecture = read_architecture(ModelConfig(name=model.path, path=model.path))
        except UserError:
            return None  # what is wrong with the folder is said where it is looked for
    if architecture is None or any(problems(architecture)):
        return None
    reach = reach_of(architecture)
    if reach is None or (context.on_gpus and FAMILIES[architecture["model_type"]].sparse):  # which SGLang has there
        return None
    unscaled = Rotary.of(architecture).is_plain
    return None if unscaled and architecture["max_position_embeddings"] <= reach.tokens else reach


SERVED_MODELS_CHECKS: tuple[Callable[[CheckContext], Iterator[str]], ...] = (
    models_are_named,
    models_are_found,
    models_have_their_devices,
    options_of_models_are_known,
    attention_of_models_sees_all_tokens,
)

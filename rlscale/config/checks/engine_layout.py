"""Do the engines fit on their devices, and the model on an engine."""

from __future__ import annotations

from collections.abc import Iterator
from math import gcd

from rlscale.config.checks.check_context import CheckContext, divisors
from rlscale.config.schema.cluster_config import Placement


def engines_fit(context: CheckContext) -> Iterator[str]:
    """Engines on their devices, and the model on an engine."""
    rollout, cluster, sizes = context.config.rollout, context.config.cluster, context.sizes
    if rollout.engine_urls:
        yield from _given_engines(context)
        return
    if rollout.engine_key_file is not None and rollout.engines_at_most is None:
        yield "rollout.engine_key_file is only read with rollout.engine_urls; set it to null"
    if not context.on_gpus or rollout.engine_groups:
        if not context.on_gpus and sizes.engines + sizes.eval_engines > cluster.max_engines:
            yield (
                f"{_engines(context)}, but cluster.max_engines={cluster.max_engines}; lower the one or raise the other"
            )
        return
    per_engine, heads = rollout.gpus_per_engine, context.size("num_attention_heads")
    if per_engine > cluster.gpus_per_node or cluster.gpus_per_node % per_engine:
        yield (
            f"rollout.gpus_per_engine={per_engine} does not divide the {cluster.gpus_per_node} GPUs of a machine; "
            f"use {divisors(gcd(cluster.gpus_per_node, heads or 0)) if cluster.gpus_per_node else 1}"
        )
        return
    if sizes.engine_gpus > sizes.engine_devices:
        yield (
            f"{_engines(context)} x gpus_per_engine={per_engine} = {sizes.engine_gpus} GPUs, but the "
            f"cluster has {sizes.engine_devices} for them; use at most {sizes.engine_devices // per_engine} engines"
        )
    elif cluster.placement is Placement.colocated and sizes.trainer_ranks:
        yield from _engines_cover_the_trainer(context)
    elif 0 < sizes.engine_gpus < sizes.engine_devices:
        context.notes.append(
            f"the engines use {sizes.engine_gpus} of their {sizes.engine_devices} GPUs "
            f"({_engines(context)}, up to {sizes.engine_devices // per_engine})"
        )
    if heads and heads % per_engine:
        yield (
            f"rollout.gpus_per_engine={per_engine} does not divide the {heads} attention heads of "
            f"{context.config.model.name}; use {divisors(gcd(heads, cluster.gpus_per_node))}"
        )


def _engines(context: CheckContext) -> str:
    """The keys that say how many engines there are, as a sum where several do."""
    config = context.config
    groups = {f"engine_groups.{name}.": one.engines for name, one in config.rollout.engine_groups.items()}
    given = groups or {"": config.rollout.engines}
    own = " + ".join(f"rollout.{name}engines={number}" for name, number in given.items())
    return f"{own} + eval.engines={config.eval.engines}" if context.sizes.eval_engines else own


def evaluation_has_its_devices(context: CheckContext) -> Iterator[str]:
    """Engines that evaluate while the trainer works and others generate share devices with neither."""
    config, sizes = context.config, context.sizes
    given = f"eval.engines={config.eval.engines}"
    if not config.eval.engines or not config.eval.enabled:
        return
    if context.supervised:
        yield f"{given}: supervised training uses its engines for nothing but evaluation; set rollout.engines instead"
    elif config.cluster.placement is Placement.colocated and sizes.eval_engines:
        yield (
            f"{given}: colocated engines have no devices of their own, on which they could evaluate while the trainer "
            "works; use cluster.placement=disaggregated, or eval.engines=0, which evaluates between the iterations"
        )
    elif config.rollout.engine_urls and not context.on_gpus and sizes.eval_engines > config.cluster.max_engines:
        yield f"{given}, but cluster.max_engines={config.cluster.max_engines}; lower the one or raise the other"
    elif config.rollout.engine_urls and sizes.engine_gpus > sizes.engine_devices:
        yield (
            f"{given} x gpus_per_engine={config.rollout.gpus_per_engine} = {sizes.engine_gpus} GPUs, but the cluster "
            f"has {sizes.engine_devices} for engines; lower it, or leave more to them (cluster.rollout_gpus)"
        )


def _engines_cover_the_trainer(context: CheckContext) -> Iterator[str]:
    """Each trainer rank hands its weights to the engine on its own GPU, so both must use the same GPUs."""
    sizes, cluster, rollout = context.sizes, context.config.cluster, context.config.rollout
    ranks, heads = sizes.trainer_ranks, context.size("num_attention_heads")
    left_over = context.config.parallel.data is None and sizes.trainer_devices % sizes.model_ranks
    if sizes.engine_gpus in (0, ranks) or ranks > sizes.trainer_devices or left_over:
        return  # nothing to cover, or ranks_fit_the_cluster says what is wrong first
    fitting = [
        size
        for size in range(1, cluster.gpus_per_node + 1)
        if not cluster.gpus_per_node % size and not ranks % size and not (heads or 0) % size
    ]
    values = [f"rollout.engines={ranks // size} with rollout.gpus_per_engine={size}" for size in fitting]
    yield (
        f"rollout.engines={rollout.engines} x gpus_per_engine={rollout.gpus_per_engine} = {sizes.engine_gpus} GPUs, "
        f"but colocated engines use the same {ranks} GPUs as the trainer; use {', or '.join(values)}"
    )


def _given_engines(context: CheckContext) -> Iterator[str]:
    rollout = context.config.rollout
    for url in rollout.engine_urls:
        if not url.startswith(("http://", "https://")):
            yield f"rollout.engine_urls: {url} is not an address; write it as http://host:port"
    if rollout.engines not in (1, len(rollout.engine_urls)):
        yield (
            f"rollout.engines={rollout.engines}, but rollout.engine_urls lists {len(rollout.engine_urls)}; "
            "none is started when addresses are given, so leave rollout.engines out"
        )
    if context.on_gpus and context.config.cluster.placement is Placement.colocated:
        yield (
            "rollout.engine_urls with cluster.placement=colocated: engines that somebody else started own their GPUs; "
            "use cluster.placement=disaggregated"
        )

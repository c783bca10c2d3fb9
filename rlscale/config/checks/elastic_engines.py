"""Engines that may join a run that goes on, or leave it (`rollout.engines_at_most`, `rollout.engines_at_least`)."""

from __future__ import annotations

from collections.abc import Iterator

from rlscale.config.checks.check_context import CheckContext
from rlscale.config.checks.weight_transport import OTHER_MACHINES, weights_take_shared_memory
from rlscale.config.schema.cluster_config import LOOPBACK_HOSTS, Placement
from rlscale.config.schema.component import TARGET
from rlscale.config.schema.speculation_config import Algorithm
from rlscale.families.served_form import WeightForm

BY_FILES = ("rlscale.weights.transports.disk.", "rlscale.weights.transports.delta.")
"""Transports that reach an engine of several ranks without knowing how many they are."""
_SERVICE = "rlscale.rollout.service.RolloutService"


def engines_are_enough(context: CheckContext) -> Iterator[str]:
    """The run begins with as many as it needs, and no more than it may have."""
    rollout = context.config.rollout
    least, most, count = rollout.engines_at_least, rollout.engines_at_most, rollout.engine_count
    if least is not None and least > count:
        yield f"rollout.engines_at_least={least}: the run begins with {count}; lower it, or start more"
    if most is not None and most < count:
        yield f"rollout.engines_at_most={most}: the run begins with {count}; raise it, or start fewer"


def engines_may_leave(context: CheckContext) -> Iterator[str]:
    """Where a run could not go on without one of them, however many are left."""
    config, rollout = context.config, context.config.rollout
    if rollout.engines_at_least is None:
        return
    refusals = {
        "run.generate_only=true, whose engines nobody lets go": config.run.generate_only,
        "rollout.engine_groups, where others wait for the part that it does": bool(rollout.engine_groups),
        f"rollout._target_={rollout._target_}, which counts its engines at its start": rollout._target_ != _SERVICE,
        "cluster.placement=colocated on GPUs, where each rank of the trainer sends to the engine on its own": (
            context.on_gpus and config.cluster.placement is Placement.colocated
        ),
    }
    for why in (why for why, holds in refusals.items() if holds):
        yield f"rollout.engines_at_least: no engine can leave a run with {why}; leave one of them out"


def engines_may_join(context: CheckContext) -> Iterator[str]:
    """What engines that somebody else starts cannot do, or cannot be given."""
    config, rollout = context.config, context.config.rollout
    if rollout.engines_at_most is None:
        return
    transport = str(config.weights.transport.get(TARGET, ""))
    refusals = {
        "run.generate_only=true, which sends no weights": config.run.generate_only,
        "rollout.replay, which needs no engines": rollout.replay is not None,
        "rollout.engine_groups, whose engines hold parts of the same requests": bool(rollout.engine_groups),
        "run.bitwise=true: an engine that somebody else started computes as it was started": config.run.bitwise,
        "weights.lora=adapter: it was not started for the adapters of this run": config.serves_adapters,
        f"rollout.weights={rollout.weights.value}: it holds the form it was started with": (
            rollout.weights is not WeightForm.as_trained
        ),
        "rollout.speculation, whose draft it does not have": rollout.speculation.algorithm is not Algorithm.none,
        "weights/transport=cuda_ipc, which reaches engines on the trainer's own GPUs only": transport.startswith(
            "rlscale.weights.transports.cuda_ipc."
        ),
        "weights.max_engines_at_once: one that somebody else started may keep its cache while it is paused": (
            config.weights.max_engines_at_once is not None
        ),
        "cluster.placement=colocated on GPUs, where engines take turns with the trainer": (
            context.on_gpus and config.cluster.placement is Placement.colocated
        ),
        f"rollout._target_={rollout._target_}, which counts its engines at its start": rollout._target_ != _SERVICE,
    }
    for why in (why for why, holds in refusals.items() if holds):
        yield f"rollout.engines_at_most: no engine can join a run with {why}; leave one of them out"
    if not rollout.engine_urls and rollout.engine_key_file is None:
        yield (
            "rollout.engines_at_most: engines that join are started with the key of the run's own; name a file that "
            "holds it as rollout.engine_key_file"
        )


def engines_on_spare_machines_join(context: CheckContext) -> Iterator[str]:
    """Machines can join the Ray of the run, and the engines there can be reached and given weights."""
    rollout, cluster, key = context.config.rollout, context.config.cluster, "rollout.engines_on_spare_machines=true"
    if not rollout.engines_on_spare_machines:
        return
    if rollout.engines_at_most is None:
        yield f"{key}: none may join; say how many there may be as rollout.engines_at_most"
    if cluster.ray_address is None:
        yield f"{key}: no machine joins a Ray that the run starts for itself; name one as cluster.ray_address"
    if cluster.host in LOOPBACK_HOSTS:
        yield f"{key}: with cluster.host={cluster.host} nobody reaches engines on other machines; use 0.0.0.0"
    if rollout.engine_urls and rollout.engine_key_file is None:
        yield f"{key}: engines there would ask nobody for a key; name a file that holds one as rollout.engine_key_file"
    if weights_take_shared_memory(context):
        yield f"{key}: other machines share no memory with the trainer; {OTHER_MACHINES}"
    files = str(context.config.weights.transport.get(TARGET, "")).startswith(BY_FILES)
    if context.on_gpus and rollout.gpus_per_engine > 1 and not files:
        yield (
            f"{key}: engines that join with rollout.gpus_per_engine={rollout.gpus_per_engine} take "
            "weights/transport=disk, or delta"
        )


ELASTIC_CHECKS = (engines_are_enough, engines_may_leave, engines_may_join, engines_on_spare_machines_join)

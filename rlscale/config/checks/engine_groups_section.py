"""Groups of the policy's engines (`rollout.engine_groups`): a whole, on devices, and able to do what is asked."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate
from pathlib import Path

from rlscale.config.checks.check_context import CheckContext
from rlscale.config.checks.options import check_options
from rlscale.config.derived.said_options import said_gpus
from rlscale.config.derived.source_sampling import MOST_WORDS, sampled_apart
from rlscale.config.schema.cluster_config import Placement
from rlscale.config.schema.component import TARGET
from rlscale.config.schema.engine_group_config import Role
from rlscale.config.schema.rollout_config import Concurrency, OnSync
from rlscale.config.schema.trainer_config import RoutingReplay

_KEY = "rollout.engine_groups"
_SHIPPED = "rlscale.serve.engine_launcher.SglangLauncher"


def groups_make_a_whole(context: CheckContext) -> Iterator[str]:
    """Engines that read prompts and engines that generate, both, or neither."""
    rollout = context.config.rollout
    roles = {group.role for group in rollout.engine_groups.values()}
    if rollout.engine_groups and rollout.engine_urls:
        yield f"{_KEY}: none is started beside rollout.engine_urls; leave one of them out"
    for missing, there in ((Role.prefill, Role.decode), (Role.decode, Role.prefill)):
        if there in roles and missing not in roles:
            yield f"{_KEY}: there is role={there.value} and no role={missing.value}; a request needs both, so add one"
    if Role.regular in roles and len(roles) > 1:
        names = [name for name, group in rollout.engine_groups.items() if group.role is Role.regular]
        yield (
            f"{_KEY}.{names[0]}.role=regular: the router sends requests to pairs of prefill and decode, and none to "
            "it; leave it out, or give all groups role=regular"
        )


def groups_have_their_devices(context: CheckContext) -> Iterator[str]:
    """An engine lies on one machine."""
    rollout, cluster, sizes = context.config.rollout, context.config.cluster, context.sizes
    if not context.on_gpus or not rollout.engine_groups or rollout.engine_urls:
        return
    per_node, heads = cluster.gpus_per_node, context.size("num_attention_heads")
    evaluating = (rollout.gpus_per_engine,) * sizes.eval_engines  # which come behind the groups
    each = said_gpus(rollout)
    if evaluating:
        each["rollout.gpus_per_engine"] = rollout.gpus_per_engine
    for key, gpus in each.items():
        if gpus > per_node:
            yield f"{key}={gpus}: a machine has cluster.gpus_per_node={per_node}; lower it"
            return
        if heads and heads % gpus:
            yield f"{key}={gpus} does not divide the {heads} attention heads of the model"
            return
    own, also = sizes.engine_gpus - sum(evaluating), f" + eval.engines={sizes.eval_engines}" if evaluating else ""
    if sizes.engine_gpus > sizes.engine_devices:
        yield (
            f"{_KEY}{also}: need {sizes.engine_gpus} GPUs, but the cluster has {sizes.engine_devices} for them; lower "
            "them"
        )
    elif cluster.placement is Placement.colocated and own != sizes.trainer_ranks:
        yield (
            f"{_KEY}: have {own} GPUs, but colocated engines use the same {sizes.trainer_ranks} as the trainer; let "
            "them have these, or use cluster.placement=disaggregated"
        )
    yield from _on_one_machine((*rollout.engine_gpus, *evaluating), per_node, also)


def _on_one_machine(engines: Sequence[int], per_node: int, also: str) -> Iterator[str]:
    """Engines of so many GPUs one behind the other, none of them on two machines."""
    firsts = accumulate(engines, initial=0)
    if any(first % per_node + gpus > per_node for first, gpus in zip(firsts, engines, strict=False)):
        yield (
            f"{_KEY}{also}: in this order an engine would lie on two machines of {per_node} GPUs; put the groups with "
            "the most gpus_per_engine first, or let their GPUs fill machines"
        )


def options_of_groups_are_known(context: CheckContext) -> Iterator[str]:
    """Every option of their engines."""
    cache = Path(context.config.run.scratch) / "cache"
    for name, group in context.config.rollout.engine_groups.items():
        yield from check_options(f"{_KEY}.{name}.sglang", "server", group.sglang, cache, context.notes)


def parts_are_able(context: CheckContext) -> Iterator[str]:
    """What engines that share requests cannot do, as it was tried with SGLang 0.5.19."""
    config, rollout = context.config, context.config.rollout
    if not rollout.disaggregated:
        return
    begin = f"{_KEY} with prefill and decode:"
    if rollout.on_sync in (OnSync.retract, OnSync.in_place):
        yield (
            f"{begin} rollout.on_sync={rollout.on_sync.value} would go on with keys and values of old weights, since "
            "engines that generate cannot read a prompt anew; use wait or abort_and_resume"
        )
    if config.trainer.routing_replay is RoutingReplay.rollout:
        yield (
            f"{begin} trainer.routing_replay=rollout: no experts are handed over, and the engine that generates tells "
            "of the prompt's, too, which it never computed; use routing_replay=recorded or none"
        )
    widest = max(one.top_k for one in (rollout, *sampled_apart(rollout, config.data).values()))
    if widest > MOST_WORDS:
        yield f"{begin} top_k={widest}: they name at most {MOST_WORDS} words to each other; lower it"
    if rollout.concurrency is Concurrency.adaptive:
        yield f"{begin} rollout.concurrency=adaptive reads the cache of whole engines; use fixed"
    if config.serves_adapters:
        yield f"{begin} weights.lora=adapter has not been tried; use weights.lora=merged"
    if rollout.engine.get(TARGET) != _SHIPPED:
        yield f"{begin} only engines of rollout/engine=sglang have roles; leave rollout.engine out"


ENGINE_GROUPS_CHECKS: tuple[Callable[[CheckContext], Iterator[str]], ...] = (
    groups_make_a_whole,
    groups_have_their_devices,
    options_of_groups_are_known,
    parts_are_able,
)

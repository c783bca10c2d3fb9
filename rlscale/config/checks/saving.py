"""When a run saves and stops: before the end of its job; and what it keeps in memory for lost ranks."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

from rlscale.config.checks.check_context import CheckContext
from rlscale.config.checks.policy_and_critic import Sections, of_policy_and_critic
from rlscale.config.derived.same_state import fewer_can_begin
from rlscale.config.schema import Config
from rlscale.config.schema.cluster_config import Placement
from rlscale.config.schema.run_config import Recover

_NOBODY_RETURNS: dict[str, Callable[[Config], bool]] = {
    "run.generate_only=true": lambda config: config.run.generate_only,
    "run.in_process=true": lambda config: config.run.in_process,
    "run.recover=none": lambda config: config.run.recover is Recover.none,
}


def stops_before_the_end(context: CheckContext) -> Iterator[str]:
    """A limit of time leaves room for the run and for its last checkpoint."""
    limit_s, before_s = context.config.run.time_limit_s, context.config.checkpoint.before_s
    if limit_s is None:
        return
    if before_s is None:
        yield (
            f"run.time_limit_s={limit_s:g}: nothing stops the run before it with checkpoint.before_s=null; give the "
            "seconds that the last checkpoint takes"
        )
    elif limit_s <= before_s:
        yield (
            f"run.time_limit_s={limit_s:g}: the run would stop at once, as checkpoint.before_s={before_s:g} of it are "
            "for the last checkpoint; raise the one or lower the other"
        )


def copies_are_of_use(context: CheckContext) -> Iterator[str]:
    """Somebody would begin with copies in memory, and everything that steps change is in them."""
    config = context.config
    if not config.checkpoint.in_memory:
        return
    why = next((key for key, given in _NOBODY_RETURNS.items() if given(config)), None)
    if why is not None:
        yield f"checkpoint.in_memory=true: nobody begins with a copy of the trainer's state with {why}; leave it out"
    yield from of_policy_and_critic(config, _what_is_not_copied)


def _what_is_not_copied(sections: Sections, prefix: str) -> Iterator[str]:
    optim = sections.optim
    if optim.on_host:
        yield f"checkpoint.in_memory=true: what {prefix}optim.on_host=true keeps is not copied; leave one of them out"
    if optim.megatron.get("use_precision_aware_optimizer"):
        key = f"{prefix}optim.megatron.use_precision_aware_optimizer"
        yield f"checkpoint.in_memory=true: what {key}=true keeps is not copied; leave one of them out"


def fewer_ranks_can_go_on(context: CheckContext) -> Iterator[str]:
    """Where ranks are to come back on fewer machines, a run outlives the loss of one, and has copies to lose."""
    run, cluster, parallel = context.config.run, context.config.cluster, context.config.parallel
    after_s = run.recover_smaller_after_s
    if after_s is None or after_s == type(run)().recover_smaller_after_s or run.recover is Recover.none:
        return
    key = f"run.recover_smaller_after_s={after_s:g}"
    if context.on_gpus and cluster.placement is Placement.colocated:
        yield (
            f"{key}: a machine that is gone takes its engines along, without which the run ends, as "
            "cluster.placement=colocated; use cluster.placement=disaggregated, or leave it out"
        )
    elif run.in_process:
        yield f"{key}: nothing comes back in a run that is one process (run.in_process=true); leave it out"
    elif context.sizes.data_parallel == 1 and not run.generate_only:
        copy = f"parallel: tensor {parallel.tensor} x pipeline {parallel.pipeline} x context {parallel.context}"
        yield f"{key}: {copy} is one copy of the model, and nothing less can train it; leave it out"
    elif machines_of_ranks(context) == 1 and not run.generate_only:
        yield f"{key}: all ranks are on the first machine of the run, and with that one the run ends; leave it out"
    elif not fewer_can_begin(context.config) and not run.generate_only:
        yield (
            f"{key}: fewer ranks have nothing to begin with, as no checkpoints are written on the way "
            "(checkpoint.every=0) and copies in memory, if there are any, fit only as many ranks as made them; give "
            "checkpoint.every, or leave it out"
        )


def machines_of_ranks(context: CheckContext) -> int:
    """On how many machines the trainer's ranks are: they fill one after the other, from the first."""
    ranks = context.sizes.trainer_ranks
    return math.ceil(ranks / context.config.cluster.gpus_per_node) if context.on_gpus else 1


SAVING_CHECKS: tuple[Callable[[CheckContext], Iterator[str]], ...] = (
    stops_before_the_end,
    copies_are_of_use,
    fewer_ranks_can_go_on,
)

"""Does the algorithm fit its batches, and do its parts fit together."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from rlscale.config.checks.check_context import CheckContext
from rlscale.config.checks.targets import named_target
from rlscale.config.schema.algo_config import (
    CispoLoss,
    CustomAdvantage,
    CustomLoss,
    OldLogprobs,
)
from rlscale.config.schema.correction_config import WeightKind


def supervised_reads_little(context: CheckContext) -> Iterator[str]:
    """Supervised training has labels and one sample per prompt: no score, no advantage. More is said in the schema."""
    if not context.supervised:
        return
    algo = context.config.algo
    for key, value, wanted in (
        ("algo/score", algo.score.kind.name, "none"),
        ("algo/advantage", context.advantage, "none"),
        ("rollout.samples_per_group", context.config.rollout.samples_per_group, 1),
    ):
        if value != wanted:
            yield f"{key}={value}: supervised training (algo/loss=sft) has no use for it; set {key}={wanted}"


def own_functions_are_named(context: CheckContext) -> Iterator[str]:
    """A custom part has a function, and a function has a custom part that calls it."""
    algo = context.config.algo
    parts: tuple[tuple[str, dict[str, Any], bool], ...] = (
        ("score", algo.score.function, algo.score.kind.name == "custom"),
        ("correction", algo.correction.function, algo.correction.weight is WeightKind.custom),
        ("reduction", algo.reduction.function, algo.reduction.kind.name == "custom"),
    )
    for part, function, custom in parts:
        if function and not custom:
            yield f"algo.{part}.function is never called, because it is not custom; choose algo/{part}=custom"
        else:
            yield from named_target(function, f"algo.{part}.function", f"algo/{part}=<option>", needed=custom)
    if isinstance(algo.advantage, CustomAdvantage):
        yield from named_target(
            algo.advantage.function, "algo.advantage.function", "algo/advantage=<option>", needed=True
        )
    if isinstance(algo.loss, CustomLoss):
        yield from named_target(algo.loss.function, "algo.loss.function", "algo/loss=<option>", needed=True)


def clip_leaves_room(context: CheckContext) -> Iterator[str]:
    """A clip to a single point takes the gradient of every token whose ratio has moved at all."""
    loss = context.config.algo.loss
    low, high = getattr(loss, "eps_low", None), getattr(loss, "eps_high", None)
    if low == 0 and high == 0 and not isinstance(loss, CispoLoss):
        yield (
            f"algo.loss.eps_low=0 with algo.loss.eps_high=0 clips every ratio that is not exactly 1, so nothing is "
            f"learnt after the first step; raise them (algo/loss={context.loss} has its source's values)"
        )


def behaviour_differs(context: CheckContext) -> Iterator[str]:
    """Weights of older versions are kept for tokens that they may have sampled, and for a pass that is made."""
    algo = context.config.algo
    if context.supervised or algo.old_logprobs is not OldLogprobs.behaviour:
        return
    if algo.correction.bypass:
        yield (
            "algo.old_logprobs=behaviour asks for a pass that algo.correction.bypass=true leaves out; change one of "
            "them"
        )
    elif context.config.rollout.max_staleness == 0:
        yield (
            "algo.old_logprobs=behaviour with rollout.max_staleness=0: the present weights sampled every token, so "
            "that it does what always does; use algo.old_logprobs=always, or rollout.max_staleness=1"
        )


def steps_divide_the_groups(context: CheckContext) -> Iterator[str]:
    """Steps get equal numbers of groups, and every data-parallel rank something to train on."""
    groups, steps = context.config.rollout.groups_per_iteration, context.config.algo.steps_per_iteration
    sizes = context.sizes
    if groups % steps:
        yield (
            f"algo.steps_per_iteration={steps} does not divide rollout.groups_per_iteration={groups}; "
            f"use {groups - groups % steps or steps} groups, or another number of steps"
        )
    elif sizes.samples_per_step < sizes.data_parallel:
        yield (
            f"a step has {sizes.samples_per_step} samples ({sizes.groups_per_step} groups of "
            f"{context.config.rollout.samples_per_group}) for {sizes.data_parallel} data-parallel ranks; "
            "raise rollout.groups_per_iteration or lower parallel.data"
        )


ALGORITHM_CHECKS: tuple[Callable[[CheckContext], Iterator[str]], ...] = (
    supervised_reads_little,
    own_functions_are_named,
    clip_leaves_room,
    behaviour_differs,
    steps_divide_the_groups,
)

"""Does the algorithm make sense: score, advantage, KL, loss, batches, and the optimizer's schedule."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from rlscale.config.checks.subject import Subject
from rlscale.config.schema.algo import AdvantageKind, KLEstimator, KLPlacement, OldLogprobs, ScoreKind
from rlscale.config.schema.optim import Schedule

_GROUPED = (ScoreKind.group_mean_std, ScoreKind.group_mean, ScoreKind.leave_one_out)


def kl_is_read(subject: Subject) -> Iterator[str]:
    """A KL coefficient that nothing reads, or a KL term that counts nothing."""
    kl, advantage = subject.config.algo.kl, subject.config.algo.advantage
    if kl.placement is KLPlacement.none:
        if kl.coef != 0.0:
            yield f"algo.kl.coef={kl.coef:g} is never read, because algo.kl.placement=none; choose algo/kl=loss"
        if kl.unbiased:
            yield "algo.kl.unbiased=true is never read, because algo.kl.placement=none; choose algo/kl=loss"
        return
    if kl.placement is KLPlacement.reward:
        yield (
            f"algo.kl.placement=reward: algo.advantage={advantage.name} never reads a KL term in the reward; "
            "use algo.kl.placement=loss"
        )
        return
    if kl.coef == 0.0:
        yield f"algo.kl.placement={kl.placement.name} with algo.kl.coef=0 counts nothing; raise it or use algo/kl=none"
    if kl.estimator is KLEstimator.k1 and not kl.unbiased:
        yield (
            "algo.kl.estimator=k1 as a loss has zero expected gradient; use k2, k3 or low_var_kl, "
            "or algo.kl.unbiased=true"
        )


def groups_have_samples(subject: Subject) -> Iterator[str]:
    """A score that compares the samples of a group needs at least two."""
    algo, samples = subject.config.algo, subject.config.rollout.samples_per_group
    if algo.score in _GROUPED and samples < 2:
        yield (
            f"algo.score={algo.score.name} compares the samples of a group, but rollout.samples_per_group={samples}; "
            "use at least 2"
        )


def pieces_fit_the_loss(subject: Subject) -> Iterator[str]:
    """Supervised training has no score, no advantage, no KL and one sample per prompt; everything else needs them."""
    algo, rollout = subject.config.algo, subject.config.rollout
    if not subject.supervised:
        if algo.score is ScoreKind.none:
            known = ", ".join(kind.name for kind in (*_GROUPED, ScoreKind.raw))
            yield f"algo.score=none: the loss of {algo.name} needs a score; use one of {known}"
        if algo.advantage is AdvantageKind.none:
            yield f"algo.advantage=none: the loss of {algo.name} needs advantages; use broadcast"
        return
    unread = (
        ("algo.score", algo.score.name, "none"),
        ("algo.advantage", algo.advantage.name, "none"),
        ("algo.kl.placement", algo.kl.placement.name, "none"),
        ("algo.old_logprobs", algo.old_logprobs.name, OldLogprobs.auto.name),
        ("algo.entropy_coef", f"{algo.entropy_coef:g}", "0"),
        ("rollout.samples_per_group", str(rollout.samples_per_group), "1"),
        ("rollout.max_staleness", str(rollout.max_staleness), "0"),
    )
    for key, value, wanted in unread:
        if value != wanted:
            yield f"{key}={value}: supervised training (algo/loss=sft) has no use for it; set {key}={wanted}"


def steps_divide_the_groups(subject: Subject) -> Iterator[str]:
    """Steps get equal numbers of groups, and every data-parallel rank something to train on."""
    groups, steps = subject.config.rollout.groups_per_iteration, subject.config.algo.steps_per_iteration
    sizes = subject.sizes
    if groups % steps:
        yield (
            f"algo.steps_per_iteration={steps} does not divide rollout.groups_per_iteration={groups}; "
            f"use {groups - groups % steps or steps} groups, or another number of steps"
        )
    elif sizes.samples_per_step < sizes.data_parallel:
        yield (
            f"a step has {sizes.samples_per_step} samples ({sizes.groups_per_step} groups of "
            f"{subject.config.rollout.samples_per_group}) for {sizes.data_parallel} data-parallel ranks; "
            "raise rollout.groups_per_iteration or lower parallel.data"
        )


def schedule_is_consistent(subject: Subject) -> Iterator[str]:
    """Warm-up ends before the decay does, and a constant rate does not decay."""
    optim, total = subject.config.optim, subject.sizes.total_steps
    if optim.schedule is Schedule.constant:
        if optim.min_lr:
            yield f"optim.min_lr={optim.min_lr:g} is never reached with optim.schedule=constant; use linear or cosine"
        if optim.decay_steps is not None:
            yield f"optim.decay_steps={optim.decay_steps} is never read with optim.schedule=constant; set it to null"
        return
    if optim.min_lr > optim.lr:
        yield f"optim.min_lr={optim.min_lr:g} is above optim.lr={optim.lr:g}"
    if optim.decay_steps is not None and optim.warmup_steps >= optim.decay_steps:
        yield f"optim.warmup_steps={optim.warmup_steps} must be below optim.decay_steps ({optim.decay_steps})"
    elif optim.decay_steps is None and optim.warmup_steps >= total:  # a run shortened to try something out
        subject.notes.append(f"the run's {total} optimizer steps end within optim.warmup_steps={optim.warmup_steps}")


ALGORITHM_CHECKS: tuple[Callable[[Subject], Iterator[str]], ...] = (
    kl_is_read,
    groups_have_samples,
    pieces_fit_the_loss,
    steps_divide_the_groups,
    schedule_is_consistent,
)

"""Is the learning rate of every step one that trains."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from rlscale.config.checks.check_context import CheckContext
from rlscale.config.schema.optim_config import OptimConfig, Schedule


def schedule_is_consistent(context: CheckContext) -> Iterator[str]:
    """Of the policy: its steps are those of the run without the iterations that train a critic alone."""
    config, sizes = context.config, context.sizes
    alone = config.critic.warmup_iterations * sizes.steps_per_iteration if context.needs.critic else 0
    yield from schedule_problems(config.optim, "optim", max(sizes.total_steps - alone, 1), context.notes)


def schedule_problems(optim: OptimConfig, key: str, total: int, notes: list[str]) -> Iterator[str]:
    """Problems of one optimizer's schedule over its `total` steps; `key` is its section.

    Warm-up ends before the decay does, a constant rate does not decay, and no step has rate 0.
    """
    if optim.schedule is Schedule.constant:
        if optim.min_lr:
            yield f"{key}.min_lr={optim.min_lr:g} is never reached with {key}.schedule=constant; use linear or cosine"
        if optim.decay_steps is not None:
            yield f"{key}.decay_steps={optim.decay_steps} is never read with {key}.schedule=constant; set it to null"
        elif optim.warmup_steps >= total:
            notes.append(_ends_early(optim, key, total))
        return
    if optim.min_lr > optim.lr:
        yield f"{key}.min_lr={optim.min_lr:g} is above {key}.lr={optim.lr:g}"
    if optim.decay_steps is None:
        if optim.warmup_steps >= total:  # a run shortened to try something out
            notes.append(_ends_early(optim, key, total))
    elif optim.warmup_steps >= optim.decay_steps:
        yield f"{key}.warmup_steps={optim.warmup_steps} must be below {key}.decay_steps ({optim.decay_steps})"
    elif optim.decay_steps < total and not optim.min_lr:
        yield (
            f"{key}.decay_steps={optim.decay_steps} with {key}.min_lr=0: the run's steps from {optim.decay_steps + 1} "
            f"to {total} would have learning rate 0 and train nothing; raise {key}.min_lr, or set {key}.decay_steps to "
            "null for the whole run"
        )


def _ends_early(optim: OptimConfig, key: str, total: int) -> str:
    return f"the run's {total} optimizer steps end within {key}.warmup_steps={optim.warmup_steps}"


SCHEDULE_CHECKS: tuple[Callable[[CheckContext], Iterator[str]], ...] = (schedule_is_consistent,)

"""When a run saves and stops: before the end of its job; and what it keeps in memory for lost ranks."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from rlscale.config.checks.check_context import CheckContext
from rlscale.config.checks.policy_and_critic import Sections, of_policy_and_critic
from rlscale.config.schema import Config
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


SAVING_CHECKS: tuple[Callable[[CheckContext], Iterator[str]], ...] = (stops_before_the_end, copies_are_of_use)

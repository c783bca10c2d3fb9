"""When a run saves and stops: before the end of its job."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from rlscale.config.checks.check_context import CheckContext


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


SAVING_CHECKS: tuple[Callable[[CheckContext], Iterator[str]], ...] = (stops_before_the_end,)

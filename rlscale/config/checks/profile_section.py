"""Are the iterations that are to be profiled iterations of the run."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from rlscale.config.checks.check_context import CheckContext


def profiled_iterations_are_made(context: CheckContext) -> Iterator[str]:
    """Each is one that trains."""
    config = context.config
    iterations, last = config.profile.iterations, config.run.iterations
    if not iterations:
        return
    if not context.needs.trains:
        yield f"profile.iterations={iterations}: nothing is trained with run.generate_only=true; leave it out"
    wrong = [one for one in iterations if not 1 <= one <= last]
    if wrong:
        yield f"profile.iterations={iterations}: iterations are 1 to {last} (run.iterations); leave {wrong[0]} out"


PROFILE_CHECKS: tuple[Callable[[CheckContext], Iterator[str]], ...] = (profiled_iterations_are_made,)

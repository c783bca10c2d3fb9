"""Are the iterations that are to be profiled iterations of the run."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from rlscale.config.checks.check_context import CheckContext
from rlscale.config.schema.profile_config import ProfileConfig

_STEPS = ProfileConfig().engine_steps
"""Of a recipe that says nothing of it."""


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


def engines_are_there_to_profile(context: CheckContext) -> Iterator[str]:
    """A replay has none."""
    profile = context.config.profile
    if context.config.rollout.replay is not None and profile.iterations and profile.engine_steps != _STEPS:
        yield (
            f"profile.engine_steps={profile.engine_steps} is not read with rollout.replay, which generates nothing; "
            f"set it to {_STEPS}"
        )


PROFILE_CHECKS: tuple[Callable[[CheckContext], Iterator[str]], ...] = (
    profiled_iterations_are_made,
    engines_are_there_to_profile,
)

"""Whether an environment of tools can tell the policy of a call that hangs, before its step fails the sample."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from rlscale.config.checks.check_context import CheckContext
from rlscale.config.schema.component import TARGET

_TOOLS = "rlscale.envs.tool_environment.ToolEnvironment"
_CALL_S = 20.0
"""The default of its `call_s`."""


def calls_end_before_steps(context: CheckContext) -> Iterator[str]:
    """A line where a call may take as long as a whole step, which fails the sample."""
    env, step_s = context.config.env, context.config.rollout.step_timeout_s
    call_s = env.get("call_s", _CALL_S if env.get(TARGET) == _TOOLS else None)
    if isinstance(call_s, int | float) and call_s >= step_s:
        yield (
            f"env.call_s={call_s:g} is not below rollout.step_timeout_s={step_s:g}: a call that hangs would fail its "
            "sample, where the policy should be told of it; lower env.call_s, or raise rollout.step_timeout_s"
        )


TOOL_CHECKS: tuple[Callable[[CheckContext], Iterator[str]], ...] = (calls_end_before_steps,)

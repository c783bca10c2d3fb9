"""One call of a reward: a number or a message comes of it, whatever it raises, and whether or not it is awaited."""

from __future__ import annotations

import inspect
import traceback
from typing import Any, NamedTuple

from rlscale.envs.reward import Reward, RewardCall, RewardFailed
from rlscale.envs.score import Failed, Score, full_score


class Outcome(NamedTuple):
    """What came of a call; picklable."""

    score: Score | None
    """None where there is none."""
    reason: str = ""
    """Why there is none."""
    trace: str = ""
    """The traceback, if something was raised."""
    crash: str = ""
    """The kind of end, where the response may be what made the reward raise, hang or die."""


INFRASTRUCTURE = (OSError, ImportError, RewardFailed)
"""What is raised for want of a file, a service or a package, and says nothing of the response."""
_LONGEST = 300
_FRAMES = 20


def outcome_of(reward: Reward, call: RewardCall) -> Outcome:
    """Call the reward; a coroutine is run on an event loop of its own.

    What it raises is this reward's failure, also what would end a program, a thread or a generator.
    """
    try:
        value: Any = reward(*call.positional, **call.named)
        if inspect.isawaitable(value):
            import asyncio  # would take a reward process that needs none longer than all else

            value = asyncio.run(_finished(value))
    except BaseException as error:
        return _raised(error)
    return _scored(value)


async def awaited_outcome_of(reward: Reward, call: RewardCall) -> Outcome:
    """Call a reward that is `async def`, on the running event loop. Only being cancelled is not a failure."""
    from asyncio import CancelledError

    try:
        value: Any = reward(*call.positional, **call.named)
        if inspect.isawaitable(value):
            value = await value
    except CancelledError:
        raise
    except BaseException as error:
        return _raised(error)
    return _scored(value)


def is_async(reward: Any) -> bool:
    """Whether calling it gives a coroutine, as far as that can be told without a call."""
    called = getattr(reward, "func", reward)  # of functools.partial
    return inspect.iscoroutinefunction(called) or inspect.iscoroutinefunction(getattr(type(called), "__call__", None))  # noqa: B004 (not whether it can be called)


async def _finished(value: Any) -> Any:
    return await value


def _raised(error: BaseException) -> Outcome:
    try:
        message = " ".join(str(error).split())
    except Exception as broken:
        message = f"(its text is not available: {type(broken).__name__})"
    if len(message) > _LONGEST:
        message = f"{message[:_LONGEST]}... ({len(message)} characters)"
    if isinstance(error, RewardFailed):
        return Outcome(None, f"the reward failed: {message}")
    trace = "".join(traceback.format_tb(error.__traceback__)[-_FRAMES:])
    kind = "" if isinstance(error, INFRASTRUCTURE) else f"raised {type(error).__name__}"
    return Outcome(None, f"the reward raised {type(error).__name__}{': ' if message else ''}{message}", trace, kind)


def _scored(value: Any) -> Outcome:
    if isinstance(value, Failed):
        return Outcome(None, f"the reward failed: {value.reason[:_LONGEST]}")
    try:
        return Outcome(full_score(value))
    except ValueError as error:
        return Outcome(None, str(error))
    except Exception as error:  # a type whose conversion to a number fails
        kind = type(value).__name__
        return Outcome(None, f"the reward returned a {kind} that is not a number ({type(error).__name__})")

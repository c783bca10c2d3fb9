"""What a reward is, and how the configured one is built."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, runtime_checkable

from rlscale.config.errors import UserError
from rlscale.config.nearest import did_you_mean, nearest
from rlscale.data.target import build_target, resolve_target
from rlscale.envs.score import Failed

if TYPE_CHECKING:  # a reward process imports no schema: that would take it longer than all else
    from rlscale.config.schema.reward_config import RewardConfig

EXTRAS = ("raw_response", "prompt", "messages", "tokens")
"""What a reward is given in addition, by name, if it has a parameter of that name (see `Reward`)."""
POSITIONAL = ("response", "label", "info")
"""What every reward is given, in this order."""
_ALSO_CALLED = {
    "completion": "response",
    "solution_str": "response",
    "ground_truth": "label",
    "extra_info": "info",
}
_ELSEWHERE = ("data_source", "prompts", "completions")
"""What rewards of other frameworks are given and these are not."""


class RewardCall(NamedTuple):
    """The arguments of one call; picklable."""

    positional: tuple[str, Any, dict[str, Any]]
    """Response, label and info."""
    named: dict[str, Any]
    """Those of `EXTRAS` that the reward is given."""


class RewardFailed(Exception):
    """The reward of one sample could not be computed; the message says why."""


class Reward(Protocol):
    """A score for one response. `_target_` may be a class whose instances are this, or a function with this signature.

    A reward may have further parameters of these names, and is then given, by name:

    - `raw_response`: the response with its special tokens (str)
    - `prompt`: the prompt as text, as the chat template made it (str)
    - `messages`: the prompt's chat messages (list of `{"role": ..., "content": ...}`)
    - `tokens`: the ids of the response's tokens (list of int)

    It may be `async def`, and is then awaited. It may be called from several threads (`reward.workers=0`), in several
    processes, or awaited many times at once.
    """

    def __call__(self, response: str, label: Any, info: dict[str, Any]) -> float | Failed:
        """The score of `response` (text without special tokens) given the prompt's label and other keys.

        Any number will do, also one of NumPy or a tensor of one element, and a Score, which tells its parts. `Failed`
        (or raising OSError) when something that it needs is out of order: that drops the sample and is counted.
        """
        ...


@runtime_checkable
class ChecksLabels(Protocol):
    """A reward that can tell whether it will be able to judge by a label; every label of the data is shown to it."""

    def check_label(self, label: Any) -> None:
        """ValueError with the reason if no response could be judged rightly by `label`."""
        ...


def build_reward(config: RewardConfig) -> Reward:
    """The reward of `reward.function`, its arguments bound.

    UserError naming reward.function.<argument> for one that it does not take, and for a parameter that nothing fills or
    that would get something else than its name says.
    """
    return reward_of(config.function)


def reward_of(node: Mapping[str, Any]) -> Reward:
    """The reward of the node `reward.function`; see `build_reward`."""
    if not node:
        raise UserError(
            "reward.function is empty; choose one with reward=arithmetic or reward=math, or give its _target_"
        )
    target = resolve_target(node, "reward.function")
    first, asked = _parameters(target)
    _refuse_misplaced(target, first)
    if not inspect.isclass(target):
        asked = [parameter for parameter in asked if parameter.name not in node]
    _refuse_unknown(target, asked)
    names = [parameter.name for parameter in asked if parameter.name in EXTRAS]
    reward = build_target(node, "reward.function", call_arguments=3, call_names=names)
    called = type(reward).__call__ if callable(reward) and inspect.isclass(target) else target
    if inspect.isgeneratorfunction(called) or inspect.isasyncgenfunction(called):
        raise UserError(f"reward.function: {node['_target_']} is a generator (it has a yield); return the number")
    if not callable(reward):
        raise UserError(f"reward.function: {type(reward).__name__} cannot be called (see rlscale.envs.reward.Reward)")
    return reward


def extras_of(reward: Reward) -> tuple[str, ...]:
    """Which of `EXTRAS` the built reward is given: those that its parameters name; all for one with `**kwargs`."""
    try:
        parameters = inspect.signature(reward).parameters.values()
    except (TypeError, ValueError):
        return ()
    bound = reward.keywords if isinstance(reward, functools.partial) else {}
    if any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters):
        return tuple(name for name in EXTRAS if name not in bound)
    named = {p.name for p in parameters if p.kind in _BY_NAME} - {p.name for p in list(parameters)[:3]}
    return tuple(name for name in EXTRAS if name in named and name not in bound)


def label_check(reward: Reward) -> Callable[[Any], None] | None:
    """The built reward's `check_label`, None if it has none. A function may have one as an attribute."""
    owner = reward.func if isinstance(reward, functools.partial) else reward
    return owner.check_label if isinstance(owner, ChecksLabels) else None


_BY_NAME = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


def _parameters(target: Callable[..., Any]) -> tuple[list[str], list[inspect.Parameter]]:
    """The parameters of a function, or of a class's instances: the names of those that get response, label and info,
    and the named ones after them."""
    called: Any = target
    given = 3
    if inspect.isclass(target):
        called = next((vars(base)["__call__"] for base in target.__mro__ if "__call__" in vars(base)), None)
        given = 4  # self
    try:
        parameters = list(inspect.signature(called).parameters.values())
    except (TypeError, ValueError):  # none, or a compiled one that does not say: the call itself will tell
        return [], []
    by_position = [p for p in parameters if p.kind in (inspect.Parameter.POSITIONAL_ONLY, _BY_NAME[0])]
    first = [p.name for p in by_position[:given]]
    return first[given - 3 :], [p for p in parameters if p.kind in _BY_NAME and p.name not in first]


def _refuse_misplaced(target: Callable[..., Any], first: Sequence[str]) -> None:
    """UserError where a parameter is in the place of another one, as in `reward(prompt, response, label)`."""
    for place, name in zip(POSITIONAL, first, strict=False):
        means = _ALSO_CALLED.get(name, name)
        if means != place and means in (*POSITIONAL, *EXTRAS, *_ELSEWHERE):
            raise UserError(
                f"reward.function: the parameter {name} of {_name(target)} would get the {place}; a reward takes "
                f"response, label and info, in this order, and after them, by name, any of {', '.join(EXTRAS)}"
            )


def _name(target: Callable[..., Any]) -> str:
    return f"{getattr(target, '__module__', '?')}.{getattr(target, '__qualname__', repr(target))}"


def _refuse_unknown(target: Callable[..., Any], asked: Sequence[inspect.Parameter]) -> None:
    """UserError for a parameter without a default that is none of `EXTRAS`."""
    for parameter in asked:
        if parameter.default is inspect.Parameter.empty and parameter.name not in EXTRAS:
            hint = did_you_mean(nearest(parameter.name, EXTRAS))
            own = "" if inspect.isclass(target) else f"; set reward.function.{parameter.name}=... if it is its own"
            raise UserError(
                f"reward.function: nothing fills the parameter {parameter.name} of {_name(target)}{own}; "
                f"a reward is called with response, label and info, and by name with {', '.join(EXTRAS)}{hint}"
            )

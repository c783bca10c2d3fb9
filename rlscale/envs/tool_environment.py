"""Any class with typed, documented public methods, as tools of an episode."""

from __future__ import annotations

import asyncio
import inspect
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, is_dataclass
from enum import Enum
from functools import lru_cache, partial
from typing import Any, cast

from jsonschema import Draft202012Validator
from jsonschema.exceptions import best_match

from rlscale.config.errors import UserError
from rlscale.data.prompts.messages import Message
from rlscale.data.sample import Prompt
from rlscale.data.target import build_target, resolve_target
from rlscale.envs.environment import Action, Call, Environment, Scorer, Start, Step
from rlscale.envs.score import info_of
from rlscale.envs.tool_schema import BEGIN, argument_types, tools_of
from rlscale.envs.tool_types import value_of
from rlscale.envs.workers.own_thread import in_own_thread

_CALL = re.compile(r"<tool_call>(.*?)(?:</tool_call>|\Z)", re.DOTALL)
_SHOWN = 200


class ToolEnvironment(Environment):
    """The policy may call the public methods of a class, and its first turn without a call is its answer.

    `tools`: `_target_` of the class and its arguments; each episode gets an instance of its own. A method
    `begin(prompt, seed)`, which is not a tool, prepares it. Calls are read by `rollout.tool_parser`, and without one as
    Qwen and Hermes write them, `<tool_call>{"name": ..., "arguments": {...}}</tool_call>`, several in a turn in their
    order. A method runs in a thread of its own, or is awaited if it is `async def`.

    What a method returns is shown as text, anything but text as JSON, up to `max_characters`. A call that cannot be
    understood or that the arguments' types do not allow, a ValueError, LookupError, ArithmeticError or TypeError of
    the method, and one that takes over `call_s` seconds, are told to the policy as an error; other exceptions are
    failures of the environment. The answer gets the configured reward; without one within `max_turns` the episode is
    cut off, with a reward of 0.
    """

    def __init__(
        self,
        reward: Scorer,
        tools: Mapping[str, Any],
        max_turns: int = 8,
        max_characters: int = 4000,
        call_s: float = 20.0,
    ) -> None:
        """UserError if the class cannot be built, or a method of it cannot be a tool."""
        if max_turns < 1 or max_characters < 1:
            raise UserError(f"env: max_turns={max_turns} and max_characters={max_characters} must be at least 1")
        if not call_s > 0:
            raise UserError(f"env: call_s={call_s:g} must be above 0")
        kind = resolve_target(tools, "env.tools")
        if not inspect.isclass(kind):
            raise UserError(
                f"env.tools._target_={tools['_target_']}: must be a class; its public methods are the tools"
            )
        self._schemas, self._types = _schemas(cast(Any, kind))
        self._tools = build_target(tools, "env.tools")
        self._reward, self._max_turns, self._max_characters = reward, max_turns, max_characters
        self._call_s = call_s
        self._calls = self._errors = 0
        self._late = False

    async def reset(self, prompt: Prompt, seed: int) -> Start:
        """The prompt as the data has it, and the tools."""
        self._prompt = prompt
        if (begin := getattr(self._tools, BEGIN, None)) is not None:
            await _run(begin, {"prompt": prompt, "seed": seed})
        return Start(tools=[schema for schema, _ in self._schemas.values()], max_turns=self._max_turns)

    async def step(self, action: Action) -> Step:
        """What the tools said, or the end with the reward of the answer."""
        calls: list[Call | str | None] = [None] if action.unread_call else [*action.calls]
        if not calls:
            calls = _CALL.findall(action.text.rpartition("</think>")[2])
        if not calls:
            score = await self._reward.score(action, self._prompt)
            return Step(reward=score, done=True, info=self._info() | info_of(score))
        self._late = False
        return Step([await self._answer(call) for call in calls], info=self._info())

    def _info(self) -> dict[str, Any]:
        return {"tool_calls": self._calls, "tool_errors": self._errors}

    async def _answer(self, call: Call | str | None) -> Message:
        """What the policy is shown of a call; None is one that the engine's parser could not read."""
        self._calls += 1
        name = "error"
        try:
            name, arguments = self._read(call)
            given = await self._given(name, arguments)
            text = given if isinstance(given, str) else json.dumps(given, ensure_ascii=False, default=_plain)
        except (ValueError, LookupError, ArithmeticError, TypeError) as error:
            self._errors += 1
            text = f"Error: {str(error)[:_SHOWN] or type(error).__name__}"
        if len(text) > self._max_characters:
            text = f"{text[: self._max_characters]}... ({len(text)} characters)"
        return {"role": "tool", "name": name, "content": text}

    async def _given(self, name: str, arguments: dict[str, Any]) -> Any:
        """What the method returns. ValueError for the policy where it takes too long, or a call of its turn did.

        A turn of many such calls would take longer than a step may, and fail the episode in place of the policy.
        """
        if self._late:
            raise ValueError(f"{name} was not called, since a call before it took over {self._call_s:g} seconds")
        values = {argument: value_of(self._types[name][argument], value) for argument, value in arguments.items()}
        try:
            async with asyncio.timeout(self._call_s) as timer:
                return await _run(getattr(self._tools, name), values)
        except TimeoutError:
            if not timer.expired():
                raise
            self._late = True
            raise ValueError(f"{name} took over {self._call_s:g} seconds") from None

    def _read(self, call: Call | str | None) -> tuple[str, dict[str, Any]]:
        """The name and the arguments of a call. ValueError with what is wrong about it, for the policy."""
        if call is None:
            raise ValueError(f"the call is not finished, or not of one of the tools {', '.join(self._schemas)}")
        name, arguments = (call.name, dict(call.arguments)) if isinstance(call, Call) else _from_json(call)
        if not isinstance(name, str) or name not in self._schemas:
            raise ValueError(f"there is no tool {str(name)[:50]}; there are {', '.join(self._schemas)}")
        if wrong := best_match(self._schemas[name][1].iter_errors(arguments)):
            raise ValueError(f"arguments of {name}: {wrong.message[:_SHOWN]}")
        return name, arguments


def _from_json(call: str) -> tuple[Any, Any]:
    """Name and arguments of a call as it was written. ValueError where it is not JSON."""
    try:
        read = json.loads(call)
    except (ValueError, RecursionError):
        raise ValueError("the call is not JSON") from None
    return (read.get("name"), read.get("arguments", {})) if isinstance(read, dict) else (None, {})


@lru_cache(maxsize=64)
def _schemas(
    kind: Callable[..., Any],
) -> tuple[dict[str, tuple[dict[str, Any], Draft202012Validator]], dict[str, dict[str, Any]]]:
    """Schemas and types, by the name of the tool: once for a class, not for every sample."""
    found = tools_of(cast(type, kind))
    schemas = {name: (one, Draft202012Validator(one["function"]["parameters"])) for name, one in found.items()}
    return schemas, argument_types(cast(type, kind))


async def _run(method: Any, arguments: Mapping[str, Any]) -> Any:
    if inspect.iscoroutinefunction(method):
        return await method(**arguments)
    given = await in_own_thread(partial(method, **arguments))
    return await given if inspect.isawaitable(given) else given


def _plain(value: Any) -> Any:
    """An enum's value, a dataclass by its fields, and anything else that JSON does not have as text."""
    if isinstance(value, Enum):
        return value.value
    return asdict(value) if is_dataclass(value) and not isinstance(value, type) else str(value)

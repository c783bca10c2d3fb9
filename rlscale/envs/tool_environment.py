"""Any class with typed, documented public methods, as tools of an episode."""

from __future__ import annotations

import asyncio
import inspect
import json
import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, cast

from jsonschema import Draft202012Validator
from jsonschema.exceptions import best_match

from rlscale.config.errors import UserError
from rlscale.data.messages import Message
from rlscale.data.sample import Prompt
from rlscale.data.target import build_target, resolve_target
from rlscale.envs.environment import Action, Call, Environment, Scorer, Start, Step
from rlscale.envs.score import info_of
from rlscale.envs.tool_schema import BEGIN, tools_of

_CALL = re.compile(r"<tool_call>(.*?)(?:</tool_call>|\Z)", re.DOTALL)
_SHOWN = 200


class ToolEnvironment(Environment):
    """The policy may call the public methods of a class, and its first turn without a call is its answer.

    `tools`: `_target_` of the class and its arguments; each episode gets an instance of its own. A method
    `begin(prompt, seed)`, which is not a tool, prepares it. Calls are read by `rollout.tool_parser`, and without one as
    Qwen and Hermes write them, `<tool_call>{"name": ..., "arguments": {...}}</tool_call>`, several in a turn in their
    order. A method runs in a thread, or is awaited if it is `async def`.

    What a method returns is shown as text, anything but text as JSON, up to `max_characters`. A call that cannot be
    understood or that the arguments' types do not allow, and a ValueError, LookupError, ArithmeticError or TypeError of
    the method, are told to the policy as an error; other exceptions are failures of the environment. The answer gets
    the configured reward; without one within `max_turns` the episode is cut off, with a reward of 0.
    """

    def __init__(
        self, reward: Scorer, tools: Mapping[str, Any], max_turns: int = 8, max_characters: int = 4000
    ) -> None:
        """UserError if the class cannot be built, or a method of it cannot be a tool."""
        if max_turns < 1 or max_characters < 1:
            raise UserError(f"env: max_turns={max_turns} and max_characters={max_characters} must be at least 1")
        kind = resolve_target(tools, "env.tools")
        if not inspect.isclass(kind):
            raise UserError(
                f"env.tools._target_={tools['_target_']}: must be a class; its public methods are the tools"
            )
        self._schemas = _schemas(cast(Any, kind))
        self._tools = build_target(tools, "env.tools")
        self._reward, self._max_turns, self._max_characters = reward, max_turns, max_characters
        self._calls = self._errors = 0

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
        return Step([await self._answer(call) for call in calls], info=self._info())

    def _info(self) -> dict[str, Any]:
        return {"tool_calls": self._calls, "tool_errors": self._errors}

    async def _answer(self, call: Call | str | None) -> Message:
        """What the policy is shown of a call; None is one that the engine's parser could not read."""
        self._calls += 1
        name = "error"
        try:
            name, arguments = self._read(call)
            given = await _run(getattr(self._tools, name), arguments)
            text = given if isinstance(given, str) else json.dumps(given, ensure_ascii=False, default=str)
        except (ValueError, LookupError, ArithmeticError, TypeError) as error:
            self._errors += 1
            text = f"Error: {str(error)[:_SHOWN] or type(error).__name__}"
        if len(text) > self._max_characters:
            text = f"{text[: self._max_characters]}... ({len(text)} characters)"
        return {"role": "tool", "name": name, "content": text}

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
def _schemas(kind: Callable[..., Any]) -> dict[str, tuple[dict[str, Any], Draft202012Validator]]:
    """Once for a class, not for every sample."""
    found = tools_of(cast(type, kind))
    return {name: (one, Draft202012Validator(one["function"]["parameters"])) for name, one in found.items()}


async def _run(method: Any, arguments: Mapping[str, Any]) -> Any:
    if inspect.iscoroutinefunction(method):
        return await method(**arguments)
    return await asyncio.to_thread(method, **arguments)

"""Tools whose arguments are more than text and numbers, of every kind of method, and calls that never come back."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import wraps
from typing import Any, Required, TypedDict

import numpy as np
import pytest

from rlscale.config.errors import UserError
from rlscale.data.sample import Prompt
from rlscale.envs.environment import Action
from rlscale.envs.score import Score
from rlscale.envs.tool_environment import ToolEnvironment
from rlscale.envs.tool_schema import tools_of
from rlscale.envs.workers.own_thread import ThreadEnded

PROMPT = Prompt(0, "0", np.array([1], np.int32), "12")


class Unit(Enum):
    METRE = "m"
    FOOT = "ft"


@dataclass
class Size:
    width: int
    unit: Unit = Unit.METRE

    def __post_init__(self) -> None:
        if self.width < 1:
            raise ValueError("a width is at least 1")


class Place(TypedDict, total=False):
    room: Required[str]
    rows: list[Size]


def timed(method: Any) -> Any:
    @wraps(method)
    async def later(*given: Any, **named: Any) -> Any:
        return method(*given, **named)

    return later


class Furniture:
    """Arguments that are more than text and numbers, and methods of every kind."""

    def order(self, sizes: Sequence[Size], place: Place | None = None, count: int = 1) -> Any:
        """Order."""
        assert all(isinstance(size.unit, Unit) for size in sizes)
        assert type(count) is int
        rows = [size.width for size in (place or {}).get("rows", [])]
        return {"sizes": list(sizes), "rows": rows}

    @classmethod
    def kind(cls) -> str:
        """What it is."""
        return cls.__name__

    @staticmethod
    @timed
    def double(a: int) -> int:
        """Twice."""
        return 2 * a

    def hang(self) -> None:
        """Never comes back."""
        time.sleep(60)

    def leave(self) -> None:
        """Ends the program."""
        raise SystemExit(3)


class Half:
    async def score(self, action: Action, prompt: Prompt) -> Score:
        return Score(0.5)


def environment(**more: Any) -> ToolEnvironment:
    return ToolEnvironment(Half(), {"_target_": f"{__name__}.Furniture"}, **more)


def call(name: str, **arguments: Any) -> str:
    return f"<tool_call>{json.dumps({'name': name, 'arguments': arguments})}</tool_call>"


def used(*turns: str) -> list[str]:
    """What the furniture says to each call."""

    async def main() -> list[str]:
        made = environment()
        await made.reset(PROMPT, 3)
        return [(await made.step(Action(turn, turn, [1]))).messages[0]["content"] for turn in turns]

    return asyncio.run(main())


def test_arguments_may_be_enums_dataclasses_and_typed_dicts() -> None:
    size = {
        "type": "object",
        "properties": {"width": {"type": "integer"}, "unit": {"enum": ["m", "ft"]}},
        "required": ["width"],
        "additionalProperties": False,
    }
    properties = tools_of(Furniture)["order"]["function"]["parameters"]["properties"]
    assert properties["sizes"] == {"type": "array", "items": size}
    place = properties["place"]["anyOf"][0]
    assert (place["required"], place["properties"]["rows"]) == (["room"], {"type": "array", "items": size})
    said = used(
        call("order", sizes=[{"width": 2.0, "unit": "ft"}], place={"room": "a", "rows": [{"width": 7}]}, count=3.0),
        call("order", sizes=[{"width": 0}]),
        call("order", sizes=[{"width": 1, "unit": "inch"}]),
        call("order", sizes=[], place={}),
    )
    assert json.loads(said[0]) == {"sizes": [{"width": 2, "unit": "ft"}], "rows": [7]}
    assert said[1:] == [
        "Error: a width is at least 1",
        "Error: arguments of order: 'inch' is not one of ['m', 'ft']",
        "Error: arguments of order: 'room' is a required property",
    ]


def test_methods_of_the_class_static_ones_and_decorated_ones_are_tools() -> None:
    assert used(call("kind"), call("double", a=4)) == ["Furniture", "8"]


def test_calls_that_hang_are_errors_for_the_policy_and_hold_up_nobody() -> None:
    """More of them than the threads that asyncio has for everybody."""

    async def main() -> list[str]:
        hasty, patient = environment(call_s=0.2), environment()
        for made in (hasty, patient):
            await made.reset(PROMPT, 3)
        turns = [hasty.step(Action(call("hang"), "", [1])) for _ in range(40)]
        said = [*await asyncio.gather(*turns), await patient.step(Action(call("kind"), "", [1]))]
        assert await asyncio.to_thread(lambda: 1) == 1
        return [step.messages[0]["content"] for step in said]

    assert asyncio.run(main()) == ["Error: hang took over 0.2 seconds"] * 40 + ["Furniture"]


def test_behind_a_call_that_took_too_long_nothing_of_its_turn_is_called() -> None:
    async def main() -> list[str]:
        made = environment(call_s=0.2)
        await made.reset(PROMPT, 3)
        hung = await made.step(Action(call("hang") + call("hang") + call("kind"), "", [1]))
        again = await made.step(Action(call("kind"), "", [1]))
        return [message["content"] for message in (*hung.messages, *again.messages)]

    late = "was not called, since a call before it took over 0.2 seconds"
    assert asyncio.run(main()) == [
        "Error: hang took over 0.2 seconds",
        f"Error: hang {late}",
        f"Error: kind {late}",
        "Furniture",
    ]


def test_a_method_that_would_end_the_program_fails_its_episode_alone() -> None:
    with pytest.raises(ThreadEnded, match="SystemExit: 3"):
        used(call("leave"))


class OddInside:
    def add(self, a: Prompt) -> None:
        """Add."""


@dataclass
class Node:
    next: Node | None = None


class Endless:
    def walk(self, start: Node) -> None:
        """Walk."""


class Yields:
    def count(self, to: int) -> Iterator[int]:
        """Count."""
        yield from range(to)


@pytest.mark.parametrize(
    ("tools", "message"),
    [
        (OddInside, "OddInside.add: the parameter a.tokens is of type ndarray; use str, int"),
        (Endless, "Endless.walk: the parameter start.next: Node contains itself"),
        (Yields, r"Yields.count is a generator \(it has a yield\)"),
    ],
)
def test_a_class_that_cannot_be_tools_is_refused_with_the_method(tools: type, message: str) -> None:
    with pytest.raises(UserError, match=message):
        tools_of(tools)

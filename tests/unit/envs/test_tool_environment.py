"""Classes as tools: their schemas, calls that are right and wrong, and the answer's reward."""

from __future__ import annotations

import asyncio
import json
from typing import Any, Literal

import numpy as np
import pytest

from rlscale.config.errors import UserError
from rlscale.data.sample import Prompt
from rlscale.envs.configured_environment import configured_environment
from rlscale.envs.environment import Action, Call, Step
from rlscale.envs.score import Score
from rlscale.envs.tool_environment import ToolEnvironment
from rlscale.envs.tool_schema import tools_of
from rlscale.run.contracts.environment_contract import check_environment
from rlscale.trainer.hook_contract import failed

PROMPT = Prompt(0, "0", np.array([1], np.int32), "12", {"shelf": ["a", "b"]})


class Library:
    """What a user writes."""

    def __init__(self, price: float = 2.0) -> None:
        self._price, self.lent = price, 0

    def begin(self, prompt: Prompt, seed: int) -> None:
        self._shelf = list(prompt.info.get("shelf", []))

    def lend(
        self, title: str, days: int = 7, kind: Literal["book", "film"] = "book", tags: list[str] | None = None
    ) -> dict:
        """Lend a title.

        It has to be there.

        Args:
            title: what is on
                its spine
            days (int): for how long

        Returns:
            the price
        """
        self._shelf.remove(title)
        self.lent += 1
        return {"price": self._price * days, "kind": kind}

    async def count(self) -> int:
        """How many titles there are.

        :param nothing: ignored
        """
        return len(self._shelf)

    def read(self) -> str:
        """A long text."""
        return "x" * 10_000

    def burn(self) -> str:
        """Something that is out of order."""
        raise OSError("no disk")


class Half:
    async def score(self, action: Action, prompt: Prompt) -> Score:
        return Score(0.5, {"form": 1.0})


def environment(**more: Any) -> Any:
    node = {"_target_": f"{ToolEnvironment.__module__}.ToolEnvironment", "tools": {"_target_": f"{__name__}.Library"}}
    return configured_environment(node | more, Half())


def play(*turns: str | Action, **more: Any) -> list[Step]:
    async def main() -> list[Step]:
        made = environment(**more)()
        start = await made.reset(PROMPT, 3)
        assert start.max_turns == 8
        assert [tool["function"]["name"] for tool in start.tools] == ["burn", "count", "lend", "read"]
        actions = [turn if isinstance(turn, Action) else Action(turn, turn, [1]) for turn in turns]
        return [await made.step(action) for action in actions]

    return asyncio.run(main())


def call(name: str, **arguments: Any) -> str:
    return f"<tool_call>\n{json.dumps({'name': name, 'arguments': arguments})}\n</tool_call>"


def test_the_schema_of_a_tool_comes_from_its_signature_and_docstring() -> None:
    schema = tools_of(Library)["lend"]
    assert schema == {
        "type": "function",
        "function": {
            "name": "lend",
            "description": "Lend a title. It has to be there.",
            "parameters": {
                "type": "object",
                "properties": {
                    "title": {"type": "string", "description": "what is on its spine"},
                    "days": {"type": "integer", "description": "for how long"},
                    "kind": {"enum": ["book", "film"]},
                    "tags": {"anyOf": [{"type": "array", "items": {"type": "string"}}, {"type": "null"}]},
                },
                "required": ["title"],
                "additionalProperties": False,
            },
        },
    }


def test_calls_are_answered_in_their_order_and_the_first_turn_without_one_is_the_answer() -> None:
    first, second, last = play(f"Well. {call('lend', title='a')}{call('count')}", call("read"), "<think>x</think>12")
    assert first.messages == [
        {"role": "tool", "name": "lend", "content": '{"price": 14.0, "kind": "book"}'},
        {"role": "tool", "name": "count", "content": "1"},
    ]
    assert not first.done
    assert second.messages[0]["content"] == "x" * 4000 + "... (10000 characters)"
    assert (last.done, last.reward) == (True, 0.5)
    assert last.info == {"tool_calls": 3, "tool_errors": 0, "reward_parts": {"form": 1.0}}


def test_calls_that_the_engines_parser_read_are_answered_alike_and_one_that_it_could_not_read_is_an_error() -> None:
    by_parser = Action("Well.", "", [1], calls=[Call("lend", {"title": "a"}), Call("lend", {"titel": "a"})])
    unread = Action("<|call|>lend(title=", "", [1], unread_call=True)
    first, second = play(by_parser, unread)
    assert [message["content"] for message in first.messages] == [
        '{"price": 14.0, "kind": "book"}',
        "Error: arguments of lend: 'title' is a required property",
    ]
    said = "Error: the call is not finished, or not of one of the tools burn, count, lend, read"
    assert second.messages == [{"role": "tool", "name": "error", "content": said}]
    assert second.info == {"tool_calls": 3, "tool_errors": 2}


def test_a_whole_call_of_a_turn_that_the_parser_did_not_read_is_not_run() -> None:
    cut = Action(call("lend", title="a") + '<tool_call>{"name"', "", [1], "length", unread_call=True)
    unread, count = play(cut, call("count"))
    assert unread.messages[0]["content"].startswith("Error: the call is not finished")
    assert (len(unread.messages), count.messages[0]["content"]) == (1, "2")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (call("lend", title="zzz"), "list.remove(x): x not in list"),
        (call("lend", title=5), "arguments of lend: 5 is not of type 'string'"),
        (call("lend"), "arguments of lend: 'title' is a required property"),
        (call("lend", title="a", kind="car"), "arguments of lend: 'car' is not one of ['book', 'film']"),
        (call("lend", title="a", x=1), "arguments of lend: Additional properties are not allowed ('x' was unexpected)"),
        (call("begin", prompt=1, seed=2), "there is no tool begin; there are burn, count, lend, read"),
        (call("__init__"), "there is no tool __init__; there are burn, count, lend, read"),
        (call("_price"), "there is no tool _price; there are burn, count, lend, read"),
        ("<tool_call>{'name'", "the call is not JSON"),
        ("<tool_call>" + "[" * 100_000, "the call is not JSON"),
        ("<tool_call>[]</tool_call>", "there is no tool None; there are burn, count, lend, read"),
        ('<tool_call>{"name": ["a"]}</tool_call>', "there is no tool ['a']; there are burn, count, lend, read"),
        ('<tool_call>{"name": "count", "arguments": []}</tool_call>', "arguments of count: [] is not of type 'object'"),
    ],
    ids=range(13),
)
def test_a_wrong_call_is_told_to_the_policy(text: str, said: str) -> None:
    (step,) = play(text)
    (message,) = step.messages
    assert message["content"] == f"Error: {said}"
    assert (step.done, step.info) == (False, {"tool_calls": 1, "tool_errors": 1})


def test_a_tool_that_is_out_of_order_is_a_failure_and_not_the_policys_mistake() -> None:
    with pytest.raises(OSError, match="no disk"):
        play(call("burn"))


def test_episodes_do_not_share_their_tools_and_the_contract_holds() -> None:
    make = environment()
    assert make()._tools is not make()._tools
    assert failed(check_environment(make, {"prompt": "Lend!", "label": "12", "shelf": ["a"]})) == []


class Untyped:
    def add(self, a, b: int) -> int:  # type: ignore[no-untyped-def]  # what is refused
        """Add."""
        return a + b


class Undocumented:
    def add(self, a: int) -> int:
        return a


class Odd:
    def add(self, a: complex) -> None:
        """Add."""


class Empty:
    pass


@pytest.mark.parametrize(
    ("tools", "message"),
    [
        ("Untyped", "Untyped.add: the parameter a has no type; annotate it"),
        ("Undocumented", "Undocumented.add has no docstring"),
        ("Odd", "Odd.add: the parameter a is of type complex; use str, int"),
        ("Empty", "Empty has no public method that could be a tool"),
        ("call", r"env.tools._target_=.*call: must be a class"),
    ],
)
def test_a_class_that_cannot_be_tools_is_refused_with_the_method(tools: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        environment(tools={"_target_": f"{__name__}.{tools}"})
    with pytest.raises(UserError, match="max_turns=0 and max_characters=4000 must be at least 1"):
        environment(max_turns=0)
    with pytest.raises(UserError, match="call_s=0 must be above 0"):
        environment(call_s=0)

"""What is made of the answers of an engine's parsers, and which engine is asked."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest

from rlscale.rollout.endpoint.chat_messages import ToolCall
from rlscale.rollout.endpoint.output_parser import EngineParser, Parsed, read_calls
from rlscale.rollout.engines.client import EngineClient
from rlscale.rollout.engines.generation import RequestFailed

TOOLS = [{"type": "function", "function": {"name": "add", "parameters": {}}}]
CALL = '<tool_call>\n{"name": "add", "arguments": {"b": 2, "a": 1}}\n</tool_call>'


@pytest.mark.parametrize(
    ("text", "answer", "parsed"),
    [
        ("just text", {"normal_text": "just text", "calls": []}, Parsed("just text")),
        (
            f"so {CALL}",
            {"normal_text": "so", "calls": [{"tool_index": 0, "name": "add", "parameters": '{"b": 2, "a": 1}'}]},
            Parsed("so", (ToolCall("add", '{"a":1,"b":2}'),)),
        ),
        # SGLang's answers to a call that is cut off, to one of an unknown tool, and to arguments that are no object.
        (CALL[:30], {"normal_text": "", "calls": []}, Parsed(CALL[:30], cut_off=True)),
        (CALL, {"normal_text": "", "calls": [{"name": "mul", "parameters": "{}"}]}, Parsed(CALL, cut_off=True)),
        (CALL, {"normal_text": "", "calls": [{"name": "add", "parameters": "[1]"}]}, Parsed(CALL, cut_off=True)),
        (CALL, {"normal_text": "", "calls": [{"name": "add", "parameters": "{1"}]}, Parsed(CALL, cut_off=True)),
    ],
)
def test_calls_are_used_where_all_of_them_can_be(text: str, answer: dict[str, Any], parsed: Parsed) -> None:
    assert read_calls(text, answer, TOOLS) == parsed


class Fleet:
    """A router with two engines, of which the first goes away after `lives` answers."""

    def __init__(self, lives: int) -> None:
        self.lives = lives
        self.asked: list[str] = []
        self.texts: list[str] = []

    async def get(self, url: str) -> tuple[int, Any]:
        names = ["a", "b"] if self.lives > 0 else ["c", "b"]
        return 200, {"workers": [{"url": f"http://{name}"} for name in names]}

    async def post(self, url: str, body: Mapping[str, Any], headers: Mapping[str, str]) -> tuple[int, Any]:
        if url.startswith("http://a") and self.lives <= 0:
            raise ConnectionRefusedError("gone")
        self.lives -= url.startswith("http://a")
        self.asked.append(url)
        self.texts.append(str(body.get("text")))
        if body.get("reasoning_parser") == "unknown":
            return 500, "Unsupported model type: unknown"
        return 200, {"reasoning_text": "hm", "text": "yes", "normal_text": "yes", "calls": []}

    async def close(self) -> None:
        pass


def parser(fleet: Fleet, tools: str | None, reasoning: str | None) -> EngineParser:
    return EngineParser(EngineClient("http://router", connect=lambda *settings: fleet), tools, reasoning)


def test_engines_take_turns_and_one_that_was_restarted_is_found() -> None:
    fleet = Fleet(lives=1)

    async def ask() -> list[tuple[str, str]]:
        parsing = parser(fleet, None, "qwen3")
        return [await parsing.reasoning("<think>hm</think>yes") for _ in range(5)]

    assert asyncio.run(ask()) == [("hm", "yes")] * 5
    assert {url.partition("//")[2][0] for url in fleet.asked} == {"a", "b", "c"}


def test_without_parsers_nobody_is_asked() -> None:
    fleet = Fleet(lives=9)
    parsing = parser(fleet, None, None)
    assert asyncio.run(parsing.reasoning("<think>")) == ("", "<think>")
    assert asyncio.run(parsing.calls(CALL, TOOLS)) == Parsed(CALL)
    assert not parsing.reads_calls
    assert fleet.asked == []


def test_a_parser_that_the_engine_does_not_have_is_a_failed_request() -> None:
    with pytest.raises(RequestFailed, match="HTTP 500: Unsupported model type"):
        asyncio.run(parser(Fleet(9), None, "unknown").reasoning("x"))


def test_a_thought_that_the_template_began_is_given_its_beginning() -> None:
    fleet = Fleet(9)
    parsing = parser(fleet, None, "qwen3")
    assert asyncio.run(parsing.reasoning("hm</think>yes", begun=True)) == ("hm", "yes")
    assert fleet.texts == ["<think>hm</think>yes"]
    assert asyncio.run(parser(fleet, None, None).reasoning("hm</think>yes", begun=True)) == ("", "hm</think>yes")

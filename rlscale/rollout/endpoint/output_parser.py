"""Thinking and calls of tools in what the policy wrote, told apart by the engine's own parsers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

from rlscale.rollout.endpoint.chat_messages import ToolCall, canonical
from rlscale.rollout.engines.client import EngineClient
from rlscale.rollout.engines.generation import RequestFailed

THINK = "<think>"
"""What a thought begins with, in the templates that begin it for the policy."""


class Parsed(NamedTuple):
    """A text without its calls. `cut_off`: it tries to call and fails, so that `text` is all of it."""

    text: str
    calls: tuple[ToolCall, ...] = ()
    cut_off: bool = False


class OutputParser(Protocol):
    """Reads what a policy wrote. RequestFailed where the parser cannot be asked."""

    reads_calls: bool
    """Whether calls of tools can be read at all."""
    reads: bool
    """Whether anything is told from the text."""

    async def reasoning(self, text: str, *, begun: bool = False) -> tuple[str, str]:
        """Thinking, and the rest. `begun`: the prompt has begun the thinking already, as some templates do."""
        ...

    async def calls(self, text: str, tools: Sequence[dict[str, Any]]) -> Parsed:
        """Calls of the tools, and the rest; their ids are empty."""
        ...


class EngineParser:
    """Asks an engine's /separate_reasoning and /parse_function_call: what serves the model in the end reads it here.

    The names are those of SGLang's options reasoning_parser and tool_call_parser; None for a policy that does not
    think, or calls no tools.
    """

    def __init__(self, client: EngineClient, tool_parser: str | None, reasoning_parser: str | None) -> None:
        self._client, self._tool_parser, self._reasoning_parser = client, tool_parser, reasoning_parser
        self._engines: list[str] = []
        self._asked = 0
        self.reads_calls = tool_parser is not None
        self.reads = self.reads_calls or reasoning_parser is not None

    async def reasoning(self, text: str, *, begun: bool = False) -> tuple[str, str]:
        """See OutputParser."""
        if self._reasoning_parser is None:
            return "", text
        if begun:  # the parsers ask how the text begins
            text = THINK + text
        answer = await self._ask("/separate_reasoning", {"text": text, "reasoning_parser": self._reasoning_parser})
        return answer.get("reasoning_text") or "", answer.get("text") or ""

    async def calls(self, text: str, tools: Sequence[dict[str, Any]]) -> Parsed:
        """See OutputParser."""
        if self._tool_parser is None:
            return Parsed(text)
        body = {"text": text, "tools": list(tools), "tool_call_parser": self._tool_parser}
        return read_calls(text, await self._ask("/parse_function_call", body), tools)

    async def _ask(self, path: str, body: dict[str, Any]) -> Any:
        """The answer of one engine after another; engines that were restarted are looked for anew."""
        for last_try in (False, True):
            if not self._engines:
                self._engines = await self._client.engines()
            self._asked += 1
            try:
                return await self._client.ask_at(self._engines[self._asked % len(self._engines)], path, body)
            except RequestFailed:
                if last_try:
                    raise
                self._engines = []
        raise AssertionError("unreachable")


def read_calls(text: str, answer: dict[str, Any], tools: Sequence[dict[str, Any]]) -> Parsed:
    """What /parse_function_call answered, where all of it can be used; else the text as it is, cut off.

    SGLang leaves out a call that is not finished or names no known tool, and the text from it on.
    """
    known = {tool["function"]["name"] for tool in tools}
    rest = answer.get("normal_text") or ""
    calls = []
    for call in answer.get("calls") or []:
        arguments = call.get("parameters") or "{}"
        if call.get("name") not in known or not _is_object(arguments):
            return Parsed(text, cut_off=True)
        calls.append(ToolCall(call["name"], canonical(arguments)))
    if not calls:
        return Parsed(text, cut_off=rest.strip() != text.strip())
    return Parsed(rest, tuple(calls))


def _is_object(arguments: str) -> bool:
    try:
        return isinstance(json.loads(arguments), dict)
    except (ValueError, RecursionError):
        return False

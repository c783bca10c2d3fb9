"""The same conversation by three protocols, each with the client that its makers publish.

Runs in an environment of its own (requirements.txt), where nothing of rlscale is.
"""

from __future__ import annotations

from typing import Any

from anthropic import AsyncAnthropic
from openai import AsyncOpenAI

_SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}}


class Conversation:
    """What was said so far, as the client's own objects. `heard`: each answer that arrived, in order.

    `stream`: answers come in events, put together by the client. `tools`: the policy is told of the tool `add`.
    """

    def __init__(self, client: Any, stream: bool = False, tools: bool = False, **fields: Any) -> None:
        self.client, self.stream, self.tools, self.fields = client, stream, tools, fields
        self.said: list[Any] = []
        self.heard: list[dict[str, Any]] = []

    async def ask(self, text: str) -> dict[str, Any]:
        """The answer to one more message of the user."""
        self.said.append({"role": "user", "content": text})
        return await self.answered()

    async def told(self, result: str) -> dict[str, Any]:
        """The answer to the result of the first tool that the last answer called."""
        self.said.append(self.result(self.heard[-1]["id"], result))
        return await self.answered()

    async def answered(self) -> dict[str, Any]:
        """The next turn: text, thinking, arguments and id of its first call, why it ended."""
        self.heard.append(await self.turn())
        return self.heard[-1]

    def branch(self, said: list[Any]) -> Conversation:
        """Another conversation of the same client, with this history."""
        other = type(self)(self.client, self.stream, self.tools, **self.fields)
        other.said, other.heard = said, self.heard
        return other

    def result(self, identity: str, text: str) -> dict[str, Any]:
        """A tool's result as a message."""
        raise NotImplementedError

    async def turn(self) -> dict[str, Any]:
        """Ask, and append what came to the history."""
        raise NotImplementedError


class Chat(Conversation):
    """OpenAI's chat completions."""

    maker = AsyncOpenAI

    def result(self, identity: str, text: str) -> dict[str, Any]:
        return {"role": "tool", "tool_call_id": identity, "content": text}

    async def turn(self) -> dict[str, Any]:
        function = {"name": "add", "description": "Adds.", "parameters": _SCHEMA}
        tools = {"tools": [{"type": "function", "function": function}]} if self.tools else {}
        asked = {"model": "policy", "messages": self.said, **tools, **self.fields}
        if self.stream:
            async with self.client.chat.completions.stream(**asked) as events:
                answer = await events.get_final_completion()
        else:
            answer = await self.client.chat.completions.create(**asked)
        choice = answer.choices[0]
        self.said.append(choice.message)
        calls = [(call.function.arguments, call.id) for call in choice.message.tool_calls or []]
        thinking = getattr(choice.message, "reasoning_content", None)
        return _turn(choice.message.content, thinking, calls, choice.finish_reason)


class Responses(Conversation):
    """OpenAI's responses."""

    maker = AsyncOpenAI

    def result(self, identity: str, text: str) -> dict[str, Any]:
        return {"type": "function_call_output", "call_id": identity, "output": text}

    async def turn(self) -> dict[str, Any]:
        function = {"type": "function", "name": "add", "description": "Adds.", "parameters": _SCHEMA, "strict": False}
        asked = {"model": "policy", "input": self.said, **({"tools": [function]} if self.tools else {}), **self.fields}
        if self.stream:
            async with self.client.responses.stream(**asked) as events:
                answer = await events.get_final_response()
        else:
            answer = await self.client.responses.create(**asked)
        self.said += answer.output
        calls = [(item.arguments, item.call_id) for item in answer.output if item.type == "function_call"]
        thinking = "".join(part.text for item in answer.output if item.type == "reasoning" for part in item.content)
        return _turn(answer.output_text, thinking, calls, "length" if answer.status == "incomplete" else "stop")


class Messages(Conversation):
    """Anthropic's messages."""

    maker = AsyncAnthropic

    def result(self, identity: str, text: str) -> dict[str, Any]:
        block = {"type": "tool_result", "tool_use_id": identity, "content": text}
        return {"role": "user", "content": [block]}

    async def turn(self) -> dict[str, Any]:
        tools = {"tools": [{"name": "add", "description": "Adds.", "input_schema": _SCHEMA}]} if self.tools else {}
        asked = {"model": "policy", "max_tokens": 200, "messages": self.said, **tools, **self.fields}
        if self.stream:
            async with self.client.messages.stream(**asked) as events:
                answer = await events.get_final_message()
        else:
            answer = await self.client.messages.create(**asked)
        self.said.append({"role": "assistant", "content": answer.content})
        parts = {kind: [block for block in answer.content if block.type == kind] for kind in ("text", "thinking")}
        calls = [(block.input, block.id) for block in answer.content if block.type == "tool_use"]
        text, thinking = ("".join(getattr(block, kind) for block in parts[kind]) for kind in ("text", "thinking"))
        return _turn(text, thinking, calls, "length" if answer.stop_reason == "max_tokens" else answer.stop_reason)


def _turn(text: str | None, thinking: str | None, calls: list[tuple[Any, str]], finish: str) -> dict[str, Any]:
    arguments, identity = calls[0] if calls else (None, None)
    return {"text": text or "", "thinking": thinking or "", "calls": arguments, "id": identity, "finish": finish}


PROTOCOLS = {"chat": Chat, "responses": Responses, "messages": Messages}

"""Anthropic's messages. Pure translation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rlscale.rollout.endpoint.chat_messages import ChatMessage, ToolCall, canonical, parsed, with_own_ids
from rlscale.rollout.endpoint.dialect import (
    ChatRequest,
    Refusal,
    Reply,
    event,
    listed,
    mapping,
    positive,
    refuse_unanswerable,
    stops,
    text_of,
    unusable,
)
from rlscale.rollout.endpoint.openai_chat import FORMAT, function_tool
from rlscale.rollout.endpoint.request_fields import seed_of, strict_tools, tool_choice, unheeded_fields

_READ = ("messages", "system", "model", "tools", "tool_choice", "max_tokens", "stop_sequences", "seed", "stream")
_WHY = {"output_config": FORMAT, "output_format": FORMAT}
_FORCING = ("any", "tool")
_ERRORS = {401: "authentication_error", 404: "not_found_error", 413: "request_too_large"}
_UNSIGNED = ""
"""The signature of a block of thinking: nobody checks it here."""


class AnthropicMessages:
    """/v1/messages."""

    keep_alive = event({"type": "ping"}, "ping")

    def read(self, body: Mapping[str, Any]) -> ChatRequest:
        """See Dialect."""
        asked, output = dict(body), body.get("output_config")
        if isinstance(output, dict) and output.keys() == {"effort"}:
            asked |= {"output_config": None, **output}
        unheeded = unheeded_fields(asked, _READ, {}, _WHY)
        system = text_of(body.get("system"), "system")
        said = [ChatMessage("system", system)] if system else []
        for number, message in enumerate(listed(body, "messages")):
            said += _messages(mapping(message, f"message {number}"), f"message {number}")
        messages = with_own_ids(said)
        refuse_unanswerable(messages)
        choice = mapping(body.get("tool_choice") or {}, "tool_choice")
        calls_allowed, forced = tool_choice(choice, _FORCING)
        tools = [mapping(tool, "a tool") for tool in listed(body, "tools")]
        return ChatRequest(
            messages=messages,
            tools=tuple(map(_tool, tools)),
            calls_allowed=calls_allowed,
            one_call=choice.get("disable_parallel_tool_use") is True,
            max_tokens=positive(body, "max_tokens"),
            stop=stops(body.get("stop_sequences")),
            seed=seed_of(body),
            stream=bool(body.get("stream")),
            model=str(body.get("model") or ""),
            unheeded=unheeded | forced | strict_tools(tools),
        )

    def answer(self, request: ChatRequest, reply: Reply) -> dict[str, Any]:
        """See Dialect."""
        return {
            **_head(request, reply),
            "content": _blocks(reply),
            "stop_reason": _reason(reply),
            "stop_sequence": reply.stopped_at,
            "usage": {"input_tokens": reply.prompt_tokens, "output_tokens": reply.completion_tokens},
        }

    def events(self, request: ChatRequest, reply: Reply) -> Iterator[bytes]:
        """See Dialect."""
        start = {**_head(request, reply), "content": [], "stop_reason": None, "stop_sequence": None}
        start["usage"] = {"input_tokens": reply.prompt_tokens, "output_tokens": 0}
        yield _typed("message_start", message=start)
        for index, block in enumerate(_blocks(reply)):
            empty, deltas = _pieces(block)
            yield _typed("content_block_start", index=index, content_block=empty)
            for delta in deltas:
                yield _typed("content_block_delta", index=index, delta=delta)
            yield _typed("content_block_stop", index=index)
        delta = {"stop_reason": _reason(reply), "stop_sequence": reply.stopped_at}
        yield _typed("message_delta", delta=delta, usage={"output_tokens": reply.completion_tokens})
        yield _typed("message_stop")

    def error(self, refusal: Refusal) -> dict[str, Any]:
        """See Dialect."""
        kind = _ERRORS.get(refusal.status, "invalid_request_error" if refusal.status < 500 else "api_error")
        return {"type": "error", "error": {"type": kind, "message": f"{refusal.code}: {refusal}"}}

    def error_event(self, refusal: Refusal) -> bytes:
        """See Dialect."""
        return event(self.error(refusal), "error")


def _messages(message: Mapping[str, Any], where: str) -> Iterator[ChatMessage]:
    """What one message of the protocol amounts to: results of tools are messages of their own here."""
    role, content = message.get("role"), message.get("content")
    if role not in ("user", "assistant"):
        raise unusable(f"{where}: role {role!r} is not one of user, assistant", "invalid")
    if not isinstance(content, list):
        yield ChatMessage(role, text_of(content, f"{where} ({role})"))
        return
    blocks = [mapping(block, f"{where}: a block") for block in content]
    if role == "assistant":
        yield _assistant(blocks, where)
        return
    results = [block for block in blocks if block.get("type") == "tool_result"]
    for block in results:
        text = text_of(block.get("content"), f"{where} (tool_result)")
        if block.get("is_error") and not text.lower().startswith("error"):
            text = f"Error: {text}"  # no template has a place for it
        yield ChatMessage("tool", text, call_id=str(block.get("tool_use_id") or ""))
    rest = [dict(block) for block in blocks if block.get("type") != "tool_result"]
    if rest or not results:
        yield ChatMessage("user", text_of(rest, f"{where} (user)"))


def _assistant(blocks: list[Mapping[str, Any]], where: str) -> ChatMessage:
    thoughts = [str(block.get("thinking") or "") for block in blocks if block.get("type") == "thinking"]
    calls = [
        ToolCall(str(block.get("name")), canonical(block.get("input") or {}), str(block.get("id") or ""))
        for block in blocks
        if block.get("type") == "tool_use"
    ]
    said = [dict(block) for block in blocks if block.get("type") not in ("thinking", "redacted_thinking", "tool_use")]
    text = text_of(said, f"{where} (assistant)")
    return ChatMessage("assistant", text, "".join(thoughts) if thoughts else None, tuple(calls))


def _tool(tool: Mapping[str, Any]) -> dict[str, Any]:
    if tool.get("type") not in (None, "custom"):
        raise unusable(f"tools of type {tool.get('type')!r} are not supported; only those with an input_schema")
    return function_tool(tool.get("name"), tool.get("description"), tool.get("input_schema"))


def _blocks(reply: Reply) -> list[dict[str, Any]]:
    blocks: list[dict[str, Any]] = []
    if reply.thinking:
        blocks.append({"type": "thinking", "thinking": reply.thinking, "signature": _UNSIGNED})
    if reply.text or not reply.calls:
        blocks.append({"type": "text", "text": reply.text})
    for call in reply.calls:
        blocks.append({"type": "tool_use", "id": call.id, "name": call.name, "input": parsed(call.arguments)})
    return blocks


def _pieces(block: dict[str, Any]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """A block as it begins in a stream, and what is added to it."""
    match block["type"]:
        case "text":
            return {**block, "text": ""}, [{"type": "text_delta", "text": block["text"]}]
        case "thinking":
            signature = {"type": "signature_delta", "signature": _UNSIGNED}
            return {**block, "thinking": ""}, [{"type": "thinking_delta", "thinking": block["thinking"]}, signature]
        case _:
            delta = {"type": "input_json_delta", "partial_json": canonical(block["input"])}
            return {**block, "input": {}}, [delta]


def _reason(reply: Reply) -> str:
    if reply.stopped_at is not None:
        return "stop_sequence"
    return {"stop": "end_turn", "length": "max_tokens", "calls": "tool_use"}[reply.finish]


def _head(request: ChatRequest, reply: Reply) -> dict[str, Any]:
    return {"id": f"msg_{reply.number}", "type": "message", "role": "assistant", "model": request.model}


def _typed(kind: str, **fields: Any) -> bytes:
    return event({"type": kind, **fields}, kind)

"""OpenAI's responses, as far as agents use them: the whole conversation in every request. Pure translation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from rlscale.rollout.endpoint.chat_messages import ChatMessage, ToolCall, canonical, with_own_ids
from rlscale.rollout.endpoint.dialect import (
    ChatRequest,
    Refusal,
    Reply,
    event,
    listed,
    mapping,
    positive,
    refuse_unanswerable,
    text_of,
    unusable,
)
from rlscale.rollout.endpoint.openai_chat import FORMAT, SEVERAL, OpenAIChat, function_tool, with_one_system
from rlscale.rollout.endpoint.request_fields import seed_of, strict_tools, tool_choice, unheeded_fields

_READ = (
    *("input", "instructions", "model", "tools", "tool_choice", "parallel_tool_calls", "max_output_tokens"),
    *("seed", "stream", "stream_options"),
)
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "n": (1,),
    "top_logprobs": (0,),
    "background": (False,),
    "truncation": ("disabled",),
    "text": (
        {"format": {"type": "text"}},
        {"verbosity": "medium"},
        {"format": {"type": "text"}, "verbosity": "medium"},
    ),
    "include": (["reasoning.encrypted_content"],),
}
_UNSTORED = "nothing is stored; send the whole conversation as input"
_WHY = {
    "n": SEVERAL,
    "text": FORMAT,
    "truncation": "what does not fit is refused",
    "previous_response_id": _UNSTORED,
    "conversation": _UNSTORED,
    "prompt": _UNSTORED,
    "background": _UNSTORED,
}
_FORCING = ("required", "function")
_TEXTS = ("input_text", "output_text", "text", "summary_text", "reasoning_text", "refusal")


class OpenAIResponses:
    """/v1/responses."""

    keep_alive = OpenAIChat.keep_alive

    def read(self, body: Mapping[str, Any]) -> ChatRequest:
        """See Dialect."""
        unheeded = unheeded_fields(body, _READ, _NEUTRAL, _WHY)
        calls_allowed, forced = tool_choice(body.get("tool_choice"), _FORCING)
        said = [ChatMessage("system", str(body["instructions"]))] if body.get("instructions") else []
        given = body.get("input")
        said += [ChatMessage("user", given)] if isinstance(given, str) else _messages(listed(body, "input"))
        messages = with_own_ids(with_one_system(said))
        refuse_unanswerable(messages)
        tools = [mapping(tool, "a tool") for tool in listed(body, "tools")]
        return ChatRequest(
            messages=messages,
            tools=tuple(map(_tool, tools)),
            calls_allowed=calls_allowed,
            one_call=body.get("parallel_tool_calls") is False,
            max_tokens=positive(body, "max_output_tokens"),
            seed=seed_of(body),
            stream=bool(body.get("stream")),
            model=str(body.get("model") or ""),
            unheeded=unheeded | forced | strict_tools(tools),
        )

    def answer(self, request: ChatRequest, reply: Reply) -> dict[str, Any]:
        """See Dialect."""
        cut = reply.finish == "length"
        return {
            **_head(request, reply, "incomplete" if cut else "completed"),
            "incomplete_details": {"reason": "max_output_tokens"} if cut else None,
            "output": _output(reply),
            "usage": {
                "input_tokens": reply.prompt_tokens,
                "input_tokens_details": {"cached_tokens": 0},
                "output_tokens": reply.completion_tokens,
                "output_tokens_details": {"reasoning_tokens": 0},
                "total_tokens": reply.prompt_tokens + reply.completion_tokens,
            },
        }

    def events(self, request: ChatRequest, reply: Reply) -> Iterator[bytes]:
        """See Dialect."""
        begun = {**_head(request, reply, "in_progress"), "output": [], "usage": None}
        made = [("response.created", {"response": begun}), ("response.in_progress", {"response": begun})]
        for index, item in enumerate(_output(reply)):
            made += _item_events(index, item)
        last = "response.incomplete" if reply.finish == "length" else "response.completed"
        made.append((last, {"response": self.answer(request, reply)}))
        for number, (kind, fields) in enumerate(made):
            yield event({"type": kind, "sequence_number": number, **fields}, kind)

    def error(self, refusal: Refusal) -> dict[str, Any]:
        """See Dialect."""
        return OpenAIChat().error(refusal)

    def error_event(self, refusal: Refusal) -> bytes:
        """See Dialect."""
        body = {"type": "error", "code": refusal.code, "message": str(refusal), "param": None, "sequence_number": 0}
        return event(body, "error")


def _messages(items: list[Any]) -> list[ChatMessage]:
    """The items of the input; what the policy did in one turn is several of them."""
    said: list[ChatMessage] = []
    for number, value in enumerate(items):
        where = f"input {number}"
        item = mapping(value, where)
        kind = item.get("type", "message")
        if kind == "function_call_output":
            said.append(
                ChatMessage("tool", text_of(item.get("output"), where, _TEXTS), call_id=str(item.get("call_id")))
            )
        elif kind in ("reasoning", "function_call") or (kind == "message" and item.get("role") == "assistant"):
            turn = said.pop() if said and said[-1].role == "assistant" else ChatMessage("assistant", "")
            said.append(_joined(turn, kind, item, where))
        elif kind == "message":
            role = item.get("role")
            if role not in ("system", "developer", "user"):
                raise unusable(f"{where}: role {role!r} is not one of system, developer, user, assistant", "invalid")
            text = text_of(item.get("content"), f"{where} ({role})", _TEXTS)
            said.append(ChatMessage("system" if role == "developer" else role, text))
        else:
            raise unusable(f"{where}: items of type {kind!r} are not supported")
    return said


def _joined(turn: ChatMessage, kind: str, item: Mapping[str, Any], where: str) -> ChatMessage:
    """A turn of the policy with one more of its items."""
    if kind == "reasoning":
        thought = text_of(item.get("content") or item.get("summary"), where, _TEXTS)
        return replace(turn, thinking=(turn.thinking or "") + thought) if thought else turn
    if kind == "function_call":
        call = ToolCall(str(item.get("name")), canonical(item.get("arguments") or "{}"), str(item.get("call_id")))
        return replace(turn, calls=(*turn.calls, call))
    return replace(turn, text=turn.text + text_of(item.get("content"), f"{where} (assistant)", _TEXTS))


def _tool(tool: Mapping[str, Any]) -> dict[str, Any]:
    if tool.get("type") != "function":
        raise unusable(f"tools of type {tool.get('type')!r} are not supported; only functions")
    return function_tool(tool.get("name"), tool.get("description"), tool.get("parameters"))


def _output(reply: Reply) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = []
    status = "incomplete" if reply.finish == "length" else "completed"
    if reply.thinking:
        content = [{"type": "reasoning_text", "text": reply.thinking}]
        items.append({"type": "reasoning", "id": f"rs_{reply.number}", "summary": [], "content": content})
    if reply.text or not reply.calls:
        part = {"type": "output_text", "text": reply.text, "annotations": [], "logprobs": []}
        message = {"type": "message", "id": f"msg_{reply.number}", "role": "assistant"}
        items.append({**message, "status": status, "content": [part]})
    for call in reply.calls:
        made = {"type": "function_call", "id": f"fc_{call.id}", "call_id": call.id, "name": call.name}
        items.append({**made, "arguments": call.arguments, "status": "completed"})
    return items


def _item_events(index: int, item: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """The events of one item: it is added, filled and done."""
    at = {"item_id": item["id"], "output_index": index}
    begun: dict[str, Any] = {**item, "status": "in_progress"}
    made: list[tuple[str, dict[str, Any]]] = []
    if item["type"] == "message":
        part = item["content"][0]
        begun["content"] = []
        inside = {**at, "content_index": 0}
        made = [
            ("response.content_part.added", {**inside, "part": {**part, "text": ""}}),
            ("response.output_text.delta", {**inside, "delta": part["text"], "logprobs": []}),
            ("response.output_text.done", {**inside, "text": part["text"], "logprobs": []}),
            ("response.content_part.done", {**inside, "part": part}),
        ]
    elif item["type"] == "function_call":
        begun["arguments"] = ""
        made = [
            ("response.function_call_arguments.delta", {**at, "delta": item["arguments"]}),
            ("response.function_call_arguments.done", {**at, "arguments": item["arguments"], "name": item["name"]}),
        ]
    done = ("response.output_item.done", {"output_index": index, "item": item})
    return [("response.output_item.added", {"output_index": index, "item": begun}), *made, done]


def _head(request: ChatRequest, reply: Reply, status: str) -> dict[str, Any]:
    return {
        "id": f"resp_{reply.number}",
        "object": "response",
        "created_at": 0,
        "status": status,
        "model": request.model,
        "error": None,
        "incomplete_details": None,
        "instructions": None,
        "metadata": {},
        "parallel_tool_calls": not request.one_call,
        "temperature": None,
        "top_p": None,
        "tool_choice": "auto",
        "tools": [],
    }

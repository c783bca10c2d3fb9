"""OpenAI's chat completions, as clients of many makers speak them. Pure translation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
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
    stops,
    text_of,
    unusable,
)
from rlscale.rollout.endpoint.request_fields import seed_of, strict_tools, tool_choice, unheeded_fields

_READ = (
    *("messages", "model", "tools", "tool_choice", "parallel_tool_calls", "max_tokens", "max_completion_tokens"),
    *("stop", "seed", "stream", "stream_options", "logprobs"),
)
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "n": (1,),
    "best_of": (1,),
    "top_logprobs": (0,),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
    "verbosity": ("medium",),
}
SEVERAL = "every call is answered once; call several times, each with another seed"
FORMAT = "it would change what tokens are drawn from"
_WHY = {
    "n": SEVERAL,
    "best_of": SEVERAL,
    "top_logprobs": "log-probs are those of the sampled tokens",
    "response_format": FORMAT,
    "logit_bias": FORMAT,
    "functions": "use tools",
    "function_call": "use tool_choice",
}
_FORCING = ("required", "function")
_FINISH = {"stop": "stop", "length": "length", "calls": "tool_calls"}
_CREATED = 0
"""A time that nobody reads; the same call gets the same bytes."""


class OpenAIChat:
    """/v1/chat/completions. A model's thinking is in `reasoning_content`, as SGLang and others have it."""

    keep_alive = b": keep-alive\n\n"

    def read(self, body: Mapping[str, Any]) -> ChatRequest:
        """See Dialect."""
        unheeded = unheeded_fields(body, _READ, _NEUTRAL, _WHY)
        calls_allowed, forced = tool_choice(body.get("tool_choice"), _FORCING)
        said = [_message(mapping(m, f"message {i}"), f"message {i}") for i, m in enumerate(listed(body, "messages"))]
        messages = with_own_ids(with_one_system(said))
        refuse_unanswerable(messages)
        options = body.get("stream_options") or {}
        tools = [mapping(tool, "a tool") for tool in listed(body, "tools")]
        strict = strict_tools(mapping(tool.get("function") or {}, "a tool's function") for tool in tools)
        return ChatRequest(
            messages=messages,
            tools=tuple(map(_tool, tools)),
            calls_allowed=calls_allowed,
            one_call=body.get("parallel_tool_calls") is False,
            max_tokens=positive(body, "max_completion_tokens", "max_tokens"),
            stop=stops(body.get("stop")),
            seed=seed_of(body),
            stream=bool(body.get("stream")),
            logprobs=bool(body.get("logprobs")),
            usage_in_stream=bool(mapping(options, "stream_options").get("include_usage")),
            model=str(body.get("model") or ""),
            unheeded=unheeded | forced | strict,
        )

    def answer(self, request: ChatRequest, reply: Reply) -> dict[str, Any]:
        """See Dialect."""
        message: dict[str, Any] = {"role": "assistant", "content": reply.text or (None if reply.calls else "")}
        if reply.thinking:
            message["reasoning_content"] = reply.thinking
        if reply.calls:
            message["tool_calls"] = _calls(reply)
        choice = {
            "index": 0,
            "message": message,
            "finish_reason": _FINISH[reply.finish],
            "logprobs": _logprobs(reply) if request.logprobs else None,
        }
        return {**_head(request, reply, "chat.completion"), "choices": [choice], "usage": _usage(reply)}

    def events(self, request: ChatRequest, reply: Reply) -> Iterator[bytes]:
        """See Dialect."""
        head = _head(request, reply, "chat.completion.chunk")

        def chunk(delta: dict[str, Any], finish: str | None = None, logprobs: Any = None) -> bytes:
            choice = {"index": 0, "delta": delta, "finish_reason": finish, "logprobs": logprobs}
            return event({**head, "choices": [choice]})

        yield chunk({"role": "assistant", "content": ""})
        if reply.thinking:
            yield chunk({"reasoning_content": reply.thinking})
        if reply.text or request.logprobs:
            yield chunk({"content": reply.text}, logprobs=_logprobs(reply) if request.logprobs else None)
        for index, call in enumerate(_calls(reply)):
            yield chunk({"tool_calls": [{"index": index, **call}]})
        yield chunk({}, _FINISH[reply.finish])
        if request.usage_in_stream:
            yield event({**head, "choices": [], "usage": _usage(reply)})
        yield event("[DONE]")

    def error(self, refusal: Refusal) -> dict[str, Any]:
        """See Dialect."""
        kind = "invalid_request_error" if refusal.status < 500 else "server_error"
        return {"error": {"message": str(refusal), "type": kind, "param": None, "code": refusal.code}}

    def error_event(self, refusal: Refusal) -> bytes:
        """See Dialect."""
        return event(self.error(refusal))


def with_one_system(messages: list[ChatMessage]) -> list[ChatMessage]:
    """The messages with those of the system that they begin with joined to one."""
    first = next((i for i, message in enumerate(messages) if message.role != "system"), len(messages))
    if first < 2:
        return messages
    return [ChatMessage("system", "\n\n".join(m.text for m in messages[:first])), *messages[first:]]


def function_tool(name: Any, description: Any, parameters: Any) -> dict[str, Any]:
    """A tool as chat templates read it."""
    if not isinstance(name, str) or not name:
        raise unusable("a tool has no name", "invalid")
    if not isinstance(description, str | None):
        raise unusable(f"tool {name}: its description must be text", "invalid")
    schema = mapping(parameters or {"type": "object"}, f"tool {name}: its parameters")
    function = {"name": name, "description": description or "", "parameters": schema}
    return {"type": "function", "function": function}


def _message(message: Mapping[str, Any], where: str) -> ChatMessage:
    role = message.get("role")
    if role not in ("system", "developer", "user", "assistant", "tool"):
        raise unusable(f"{where}: role {role!r} is not one of system, developer, user, assistant, tool", "invalid")
    content = message.get("content")
    if role == "assistant":
        for key in ("function_call", "audio"):
            if message.get(key) is not None:
                raise unusable(f"{where}: {key} is not supported")
        content = content if content is not None else message.get("refusal")
    text = text_of(content, f"{where} ({role})", ("text", "refusal") if role == "assistant" else ("text",))
    if role == "assistant":
        thinking = message.get("reasoning_content", message.get("reasoning"))
        calls = tuple(_call(mapping(call, f"{where}: a call")) for call in listed(message, "tool_calls"))
        return ChatMessage("assistant", text, thinking if isinstance(thinking, str) else None, calls)
    name = str(message.get("name") or "")
    if role == "tool":
        return ChatMessage("tool", text, call_id=str(message.get("tool_call_id") or ""), name=name)
    return ChatMessage("system" if role == "developer" else role, text, name=name)


def _call(call: Mapping[str, Any]) -> ToolCall:
    function = mapping(call.get("function"), "a call's function")
    return ToolCall(str(function.get("name")), canonical(function.get("arguments") or "{}"), str(call.get("id") or ""))


def _tool(tool: Mapping[str, Any]) -> dict[str, Any]:
    if tool.get("type", "function") != "function":
        raise unusable(f"tools of type {tool.get('type')!r} are not supported; only functions")
    function = mapping(tool.get("function"), "a tool's function")
    return function_tool(function.get("name"), function.get("description"), function.get("parameters"))


def _calls(reply: Reply) -> list[dict[str, Any]]:
    return [
        {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
        for call in reply.calls
    ]


def _logprobs(reply: Reply) -> dict[str, Any]:
    entries = [
        {"token": text, "logprob": logprob, "bytes": list(text.encode()), "top_logprobs": []}
        for text, logprob in reply.logprobs
    ]
    return {"content": entries, "refusal": None}


def _head(request: ChatRequest, reply: Reply, kind: str) -> dict[str, Any]:
    return {"id": f"chatcmpl-{reply.number}", "object": kind, "created": _CREATED, "model": request.model}


def _usage(reply: Reply) -> dict[str, int]:
    read, written = reply.prompt_tokens, reply.completion_tokens
    return {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}

"""What every protocol of agents comes down to: a request, a reply, or a refusal."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from rlscale.rollout.endpoint.chat_messages import ChatMessage, ToolCall, canonical


@dataclass(frozen=True)
class ChatRequest:
    """A call of the policy.

    `tools` are JSON schemas as chat templates read them ({"type": "function", "function": {...}}). Of how tokens are
    drawn a client decides `max_tokens`, `stop` and `seed`; temperature and the like are the run's, which the loss
    relies on.
    """

    messages: tuple[ChatMessage, ...]
    tools: tuple[dict[str, Any], ...] = ()
    calls_allowed: bool = True
    """Whether calls of tools are looked for in the answer (`tool_choice` other than none)."""
    one_call: bool = False
    """Whether the answer is to have one call at most; the policy may write more, which the client does not see."""
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    seed: int | None = None
    """Another one asks for another answer to the same request."""
    stream: bool = False
    logprobs: bool = False
    usage_in_stream: bool = False
    model: str = ""
    unheeded: Mapping[str, Any] = field(default_factory=dict, compare=False)
    """What it asked for by name and does not get, since the run decides it."""

    @property
    def told_tools(self) -> str:
        """The tools as canonical JSON."""
        return canonical(list(self.tools))

    @property
    def identity(self) -> str:
        """The same for requests that ask the same."""
        said = [
            [m.role, m.text, m.thinking, [(c.name, c.arguments) for c in m.calls], m.call_id, m.name]
            for m in self.messages
        ]
        calls = self.calls_allowed, self.one_call
        return json.dumps([said, self.told_tools, calls, self.max_tokens, self.stop, self.seed, self.logprobs])


@dataclass(frozen=True)
class Reply:
    """What the policy answered. `finish` is "stop", "length" or "calls"; `stopped_at` a stop of the request."""

    number: int
    """Of the answer in its session."""
    text: str
    thinking: str = ""
    calls: tuple[ToolCall, ...] = ()
    finish: str = "stop"
    stopped_at: str | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0
    logprobs: Sequence[tuple[str, float]] = field(default=(), repr=False)
    """Text and log-prob of each token, where asked for."""

    @property
    def message(self) -> ChatMessage:
        """As a later request will hold it."""
        return ChatMessage("assistant", self.text, self.thinking or None, self.calls)


class Refusal(Exception):
    """A call that is not answered. `code` says why in one word, `status` by HTTP."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status, self.code = status, code


def unusable(message: str, code: str = "unsupported") -> Refusal:
    """The refusal of a request that is wrong, or asks for what is not supported."""
    return Refusal(400, code, message)


class Dialect(Protocol):
    """One protocol: pure translation."""

    keep_alive: bytes
    """What is sent while an answer is waited for."""

    def read(self, body: Mapping[str, Any]) -> ChatRequest:
        """The request of a body. Refusal where it is wrong or asks for what is not supported."""
        ...

    def answer(self, request: ChatRequest, reply: Reply) -> dict[str, Any]:
        """The body of an answer in one piece."""
        ...

    def events(self, request: ChatRequest, reply: Reply) -> Iterator[bytes]:
        """The answer as server-sent events."""
        ...

    def error(self, refusal: Refusal) -> dict[str, Any]:
        """The body of a refusal."""
        ...

    def error_event(self, refusal: Refusal) -> bytes:
        """The refusal in a stream that has begun."""
        ...


# ---- reading bodies -------------------------------------------------------------------------------------------------


def listed(body: Mapping[str, Any], key: str) -> list[Any]:
    """A list of a body, empty where it is absent or null."""
    value = body.get(key)
    if value is None:
        return []
    if not isinstance(value, list):
        raise unusable(f"{key} must be a list", "invalid")
    return value


def mapping(value: Any, what: str) -> Mapping[str, Any]:
    """The value, which must be an object."""
    if not isinstance(value, dict):
        raise unusable(f"{what} must be an object", "invalid")
    return value


def positive(body: Mapping[str, Any], *keys: str) -> int | None:
    """The number of tokens that is given by a key, or by its older name; the smaller where both are."""
    given = {key: body[key] for key in keys if body.get(key) is not None}
    for key, value in given.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise unusable(f"{key} must be a positive integer", "invalid")
    return min(given.values(), default=None)


def stops(value: Any) -> tuple[str, ...]:
    """Stop texts, of which there may be one, several or none."""
    found = [value] if isinstance(value, str) else (value or [])
    if not isinstance(found, list) or not all(isinstance(one, str) and one for one in found):
        raise unusable("stop must be a text or a list of texts", "invalid")
    return tuple(found)


def text_of(content: Any, where: str, kinds: Sequence[str] = ("text",)) -> str:
    """Content that is text, or a list of parts of these kinds, each with a text. Others are refused by name."""
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise unusable(f"{where}: content must be text or a list of parts", "invalid")
    found = []
    for part in content:
        if isinstance(part, str):
            found.append(part)
            continue
        kind = mapping(part, f"{where}: a part").get("type", "text")
        if kind not in kinds:
            raise unusable(f"{where}: parts of type {kind!r} are not supported; the policy reads text only")
        text = part.get("text", part.get("refusal"))
        if not isinstance(text, str):
            raise unusable(f"{where}: a part of type {kind!r} has no text", "invalid")
        found.append(text)
    return "".join(found)


def refuse_unanswerable(messages: Sequence[ChatMessage]) -> None:
    """Refusal where there is nothing to answer."""
    if not messages:
        raise unusable("there are no messages", "invalid")
    if messages[-1].role == "assistant":
        raise unusable("the last message is the assistant's: continuing a given answer (prefill) is not supported")


def event(data: Any, name: str | None = None) -> bytes:
    """One server-sent event."""
    text = data if isinstance(data, str) else json.dumps(data, ensure_ascii=False)
    # A lone surrogate, which UTF-8 has no bytes for, is written as JSON's escape.
    return (f"event: {name}\n" if name else "").encode() + f"data: {text}\n\n".encode(errors="backslashreplace")

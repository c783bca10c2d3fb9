"""Messages as agents send them, held so that they can be compared and rendered, whichever protocol they came by."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from rlscale.data.prompts.messages import Message


@dataclass(frozen=True)
class ToolCall:
    """A call of a tool by the policy."""

    name: str
    arguments: str
    """Canonical JSON (see `canonical`), or the client's own text where that is not JSON."""
    id: str = ""


@dataclass(frozen=True)
class ChatMessage:
    """One message. `thinking` is None where the client said nothing of it; `call_id` is what a tool's result is for."""

    role: str
    text: str
    thinking: str | None = None
    calls: tuple[ToolCall, ...] = ()
    call_id: str = ""
    name: str = ""
    """Of the tool whose result this is, or of who speaks, for the templates that tell speakers of a role apart."""

    def rendered(self) -> Message:
        """The message as chat templates read it."""
        message: Message = {"role": self.role, "content": self.text}
        if self.thinking:
            message["reasoning_content"] = self.thinking
        if self.calls:
            message["tool_calls"] = [
                {
                    "type": "function",
                    "id": call.id,
                    "function": {"name": call.name, "arguments": parsed(call.arguments)},
                }
                for call in self.calls
            ]
        if self.call_id:
            message["tool_call_id"] = self.call_id
        if self.name:
            message["name"] = self.name
        return message


def canonical(value: Any) -> str:
    """JSON that is the same for equal values: sorted keys, no blanks. A text is read as JSON first, if it is that."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return str(value)
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def parsed(arguments: str) -> Any:
    """Arguments as templates want them: an object, or the text where they are none."""
    try:
        value = json.loads(arguments)
    except (ValueError, RecursionError):
        return arguments
    return value if isinstance(value, dict) else arguments


def with_own_ids(messages: Iterable[ChatMessage]) -> tuple[ChatMessage, ...]:
    """The messages with ids of tool calls by their place: clients rename ids, and not every one sends them back.

    Ids have nine letters and digits, which the strictest of the published templates asks for.
    """
    known: dict[str, tuple[str, str]] = {}
    renamed, number = [], 0
    for message in messages:
        calls = []
        for call in message.calls:
            own = f"call{number:05d}"
            number += 1
            known[call.id] = own, call.name
            calls.append(replace(call, id=own))
        unknown = "", message.name
        answered, name = known.get(message.call_id, unknown) if message.role == "tool" else unknown
        renamed.append(replace(message, calls=tuple(calls), call_id=answered, name=name))
    return tuple(renamed)


def same(stored: ChatMessage, given: ChatMessage) -> bool:
    """Whether a client's message is the stored one: by role, text, thinking (absent counts as equal) and calls.

    White space around what the policy said does not count: clients strip it, and so do templates.
    """
    if stored.role != given.role or stored.call_id != given.call_id:
        return False
    if stored.role != "assistant":
        return (stored.text, stored.name) == (given.text, given.name)
    if given.thinking is not None and given.thinking.strip() != (stored.thinking or "").strip():
        return False
    mine, theirs = ([(call.name, call.arguments) for call in one.calls] for one in (stored, given))
    return stored.text.strip() == given.text.strip() and mine == theirs


def forgot_thinking(stored: ChatMessage, given: ChatMessage) -> bool:
    """Whether the policy thought and the client does not say so."""
    return bool(stored.thinking) and given.thinking is None


def rendered(messages: Sequence[ChatMessage]) -> list[Message]:
    """The messages as chat templates read them."""
    return [message.rendered() for message in messages]

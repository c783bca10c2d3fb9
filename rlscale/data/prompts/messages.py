"""Chat messages held to one rule, from whichever file or source they come. ValueError says what is wrong with them.

A key that is null counts as absent: Arrow gives every message of a column all the keys that any of them has. Content is
text; a list of text parts is joined to it. Roles, and keys other than role and content, are the chat template's affair.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

Message = dict[str, Any]


def read_messages(value: Any) -> list[Message]:
    """The messages of a prompt, each with a role and text as content, at most one of them by the system."""
    value = as_plain(value)
    if value is None:
        raise ValueError("is null")
    if not isinstance(value, list):
        raise ValueError(f"is {kind_of(value)}, neither a string nor a list of messages with role and content")
    if not value:
        raise ValueError("is an empty list of messages")
    messages = [_message(message, number) for number, message in enumerate(value)]
    systems = [number for number, message in enumerate(messages) if message["role"] == "system"]
    if len(systems) > 1:
        raise ValueError(f"messages {systems[0]} and {systems[1]} are both system messages; join them")
    if not any(message["content"].strip() for message in messages):
        raise ValueError("has no text in any of its messages")
    return messages


def with_system(messages: Sequence[Message], system_prompt: str | None) -> list[Message]:
    """The messages after a system prompt, if there is one."""
    if system_prompt is None:
        return list(messages)
    if any(message["role"] == "system" for message in messages):
        raise ValueError("has a system message of its own, and a system_prompt is set too; leave one of them out")
    return [{"role": "system", "content": system_prompt}, *messages]


def tool_names(tools: Sequence[Mapping[str, Any]]) -> list[str]:
    """What the tools are called, by their JSON schemas as chat templates read them, or by the function alone."""
    inside = [tool["function"] if isinstance(tool.get("function"), Mapping) else tool for tool in tools]
    return [str(one.get("name", "?")) for one in inside]


def split_answer(messages: Sequence[Message]) -> tuple[list[Message], str]:
    """The messages before the assistant's last one, and its text: an example to learn from."""
    last = messages[-1]
    if last["role"] != "assistant":
        raise ValueError(f"ends with a {last['role']!r} message, so there is no answer to learn; set label_key")
    if "tool_calls" in last:
        raise ValueError("ends with tool calls, which cannot be learned; only text can")
    if len(messages) == 1:
        raise ValueError("holds nothing but the answer")
    return list(messages[:-1]), last["content"]


def refuse_answered(messages: Sequence[Message]) -> None:
    """ValueError where the last message is by the assistant: the policy is to write that."""
    if messages[-1]["role"] == "assistant":
        raise ValueError("ends with an assistant message, which is what the policy has to write; leave it out")


def as_plain(value: Any) -> Any:
    """The value as JSON would hold it: arrays and tuples as lists, NumPy's scalars as Python's, all the way down."""
    if isinstance(value, str):  # by far the most frequent
        return value
    if isinstance(value, np.ndarray):
        return as_plain(value.tolist())
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, list | tuple):
        return [as_plain(item) for item in value]
    if isinstance(value, dict):
        return {key: as_plain(item) for key, item in value.items()}
    return value


def kind_of(value: Any) -> str:
    """What a value is, in JSON's words."""
    if value is None:
        return "null"
    return _KINDS.get(type(value), type(value).__name__)


_KINDS = {bool: "true or false", int: "a number", float: "a number", str: "a string", list: "a list", dict: "an object"}


def _message(value: Any, number: int) -> Message:
    if not isinstance(value, dict):
        raise ValueError(f"message {number} is {kind_of(value)}, not an object with role and content")
    message = without_null(value)
    role = message.get("role")
    if role is None or role == "":
        raise ValueError(f"message {number} has no role{_foreign(message)}")
    if not isinstance(role, str):
        raise ValueError(f"message {number} has a role that is {kind_of(role)}; it must be text")
    message["content"] = _text(message, f"message {number} ({role})")
    return message


def _text(message: Message, which: str) -> str:
    content = message.get("content")
    if content is None:
        if message["role"] == "assistant" and message.get("tool_calls"):
            return ""
        raise ValueError(f"{which} has no content")
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise ValueError(f"{which} has content that is {kind_of(content)}; it must be text")
    if not content:
        raise ValueError(f"{which} has an empty list as content")
    return "".join(_part(part, which) for part in content)


def _part(part: Any, which: str) -> str:
    if isinstance(part, str):
        return part
    if not isinstance(part, dict):
        raise ValueError(f"{which} has a part that is {kind_of(part)}; parts are objects with type and text")
    kind = part.get("type", "text")
    if kind != "text":
        raise ValueError(f"{which} has a part of type {kind!r}; only text can be read")
    text = part.get("text")
    if not isinstance(text, str):
        raise ValueError(f"{which} has a text part without text")
    return text


def without_null(value: Any) -> Any:
    """The value without the keys that are null, all the way down."""
    if isinstance(value, dict):
        return {key: without_null(item) for key, item in value.items() if item is not None}
    return [without_null(item) for item in value] if isinstance(value, list) else value


def _foreign(message: Message) -> str:
    """A hint where the message follows another convention."""
    return "; ShareGPT's from and value are written role and content" if "from" in message else ""

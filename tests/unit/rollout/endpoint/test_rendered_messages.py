"""Messages of a client as chat templates read them."""

from __future__ import annotations

from rlscale.rollout.endpoint.chat_messages import ChatMessage
from rlscale.rollout.endpoint.openai_chat import OpenAIChat


def test_messages_render_as_templates_read_them() -> None:
    add = {
        "type": "function",
        "function": {"name": "add", "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}}},
    }
    question = {"role": "user", "content": "a"}
    messages = [
        question,
        {
            "role": "assistant",
            "content": None,
            "reasoning_content": "hm",
            "tool_calls": [
                {"id": "x", "type": "function", "function": {"name": "add", "arguments": '{"b": 1, "a": 2}'}}
            ],
        },
        {"role": "tool", "tool_call_id": "x", "content": [{"type": "text", "text": "3"}]},
    ]
    request = OpenAIChat().read({"messages": messages, "tools": [add]})
    assert [message.rendered() for message in request.messages][1:] == [
        {
            "role": "assistant",
            "content": "",
            "reasoning_content": "hm",
            "tool_calls": [
                {"type": "function", "id": "call00000", "function": {"name": "add", "arguments": {"a": 2, "b": 1}}}
            ],
        },
        {"role": "tool", "content": "3", "tool_call_id": "call00000", "name": "add"},
    ]
    assert ChatMessage("user", "a").rendered() == question

"""The protocols: what requests say, and what answers look like on the wire."""

from __future__ import annotations

import json
from typing import Any

import pytest

from rlscale.rollout.endpoint.anthropic_messages import AnthropicMessages
from rlscale.rollout.endpoint.chat_messages import ChatMessage, ToolCall
from rlscale.rollout.endpoint.dialect import ChatRequest, Dialect, Refusal, Reply
from rlscale.rollout.endpoint.openai_chat import OpenAIChat
from rlscale.rollout.endpoint.openai_responses import OpenAIResponses

CHAT, RESPONSES, ANTHROPIC = OpenAIChat(), OpenAIResponses(), AnthropicMessages()
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}}
ADD = {"type": "function", "function": {"name": "add", "description": "sums", "parameters": SCHEMA}}
CALLED = Reply(3, "so", "hm", (ToolCall("add", '{"a":1}', "call_3_0"),), "calls", None, 10, 4)

CONVERSATION = (
    ChatMessage("system", "be brief"),
    ChatMessage("user", "1 + 2?"),
    ChatMessage("assistant", "so", "hm", (ToolCall("add", '{"a":1}', "call00000"),)),
    ChatMessage("tool", "3", call_id="call00000", name="add"),
    ChatMessage("user", "sure?"),
)
BODIES: dict[str, tuple[Dialect, dict[str, Any]]] = {
    "chat": (
        CHAT,
        {
            "messages": [
                {"role": "developer", "content": "be brief"},
                {"role": "user", "content": [{"type": "text", "text": "1 + 2?"}]},
                {
                    "role": "assistant",
                    "content": "so",
                    "reasoning_content": "hm",
                    "tool_calls": [
                        {"id": "z", "type": "function", "function": {"name": "add", "arguments": '{ "a": 1 }'}}
                    ],
                },
                {"role": "tool", "tool_call_id": "z", "content": "3"},
                {"role": "user", "content": "sure?"},
            ],
            "tools": [ADD],
            "max_completion_tokens": 9,
        },
    ),
    "responses": (
        RESPONSES,
        {
            "instructions": "be brief",
            "input": [
                {"role": "user", "content": "1 + 2?"},
                {"type": "reasoning", "id": "r", "summary": [], "content": [{"type": "reasoning_text", "text": "hm"}]},
                {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "so"}]},
                {"type": "function_call", "call_id": "z", "name": "add", "arguments": '{"a": 1}'},
                {"type": "function_call_output", "call_id": "z", "output": "3"},
                {"role": "user", "content": [{"type": "input_text", "text": "sure?"}]},
            ],
            "tools": [{"type": "function", "name": "add", "description": "sums", "parameters": SCHEMA}],
            "max_output_tokens": 9,
        },
    ),
    "anthropic": (
        ANTHROPIC,
        {
            "system": [{"type": "text", "text": "be brief", "cache_control": {"type": "ephemeral"}}],
            "messages": [
                {"role": "user", "content": "1 + 2?"},
                {
                    "role": "assistant",
                    "content": [
                        {"type": "thinking", "thinking": "hm", "signature": ""},
                        {"type": "text", "text": "so"},
                        {"type": "tool_use", "id": "z", "name": "add", "input": {"a": 1}},
                    ],
                },
                {
                    "role": "user",
                    "content": [
                        {"type": "tool_result", "tool_use_id": "z", "content": [{"type": "text", "text": "3"}]},
                        {"type": "text", "text": "sure?"},
                    ],
                },
            ],
            "tools": [{"name": "add", "description": "sums", "input_schema": SCHEMA}],
            "max_tokens": 9,
        },
    ),
}


@pytest.mark.parametrize("name", BODIES)
def test_the_same_conversation_is_the_same_request_by_every_protocol(name: str) -> None:
    dialect, body = BODIES[name]
    request = dialect.read(body)
    assert request.messages == CONVERSATION
    assert (request.tools, request.max_tokens, request.calls_allowed) == ((ADD,), 9, True)


def test_an_answer_sent_back_is_the_message_that_was_kept() -> None:
    message = CHAT.answer(ChatRequest(()), CALLED)["choices"][0]["message"]
    (again,) = CHAT.read({"messages": [message, {"role": "user", "content": "?"}]}).messages[:-1]
    items = RESPONSES.answer(ChatRequest(()), CALLED)["output"]
    (by_items,) = RESPONSES.read({"input": [*items, {"role": "user", "content": "?"}]}).messages[:-1]
    blocks = ANTHROPIC.answer(ChatRequest(()), CALLED)["content"]
    turns = [{"role": "assistant", "content": blocks}, {"role": "user", "content": "?"}]
    (by_blocks,) = ANTHROPIC.read({"messages": turns}).messages[:-1]
    kept = CALLED.message
    for sent in (again, by_items, by_blocks):
        assert (sent.text, sent.thinking) == (kept.text, kept.thinking)
        assert [(call.name, call.arguments) for call in sent.calls] == [("add", '{"a":1}')]


IMAGE = {"type": "image_url", "image_url": {"url": "data:"}}
HELLO = [{"role": "user", "content": "hello"}]


@pytest.mark.parametrize(
    ("dialect", "body", "message"),
    [
        (CHAT, {"messages": HELLO, "n": 2}, "n=2 is not supported: every call is answered once"),
        (CHAT, {"messages": [{"role": "user", "content": [IMAGE]}]}, "message 0 .*'image_url' are not supported"),
        (CHAT, {"messages": HELLO, "top_logprobs": 5}, "top_logprobs is not supported"),
        (CHAT, {"messages": HELLO, "response_format": {"type": "json_object"}}, "response_format is not supported"),
        (CHAT, {"messages": []}, "there are no messages"),
        (CHAT, {"messages": "hello"}, "messages must be a list"),
        (CHAT, {"messages": ["hello"]}, "message 0 must be an object"),
        (CHAT, {"messages": HELLO, "max_tokens": 0}, "max_tokens must be a positive integer"),
        (CHAT, {"messages": HELLO, "stop": [1]}, "stop must be a text or a list of texts"),
        (CHAT, {"messages": [{"role": "robot", "content": "x"}]}, "role 'robot' is not one of"),
        (CHAT, {"messages": [*HELLO, {"role": "assistant", "content": "I"}]}, "prefill"),
        (CHAT, {"messages": HELLO, "tools": [{"type": "web_search"}]}, "tools of type 'web_search'"),
        (RESPONSES, {"input": "x", "previous_response_id": "resp_1"}, "previous_response_id is not supported"),
        (RESPONSES, {"input": [{"role": "user", "content": [{"type": "input_image"}]}]}, "'input_image' are not"),
        (RESPONSES, {"input": "x", "tools": [{"type": "file_search"}]}, "tools of type 'file_search'"),
        (RESPONSES, {"input": [{"type": "computer_call"}]}, "input 0: items of type 'computer_call'"),
        (ANTHROPIC, {"messages": [{"role": "user", "content": [{"type": "image"}]}]}, "parts of type 'image'"),
        (ANTHROPIC, {"messages": HELLO, "tools": [{"type": "bash_20250124", "name": "bash"}]}, "'bash_20250124'"),
        (ANTHROPIC, {"messages": [{"role": "system", "content": "x"}]}, "role 'system' is not one of"),
    ],
)
def test_what_is_not_supported_is_refused_by_name(dialect: Dialect, body: dict[str, Any], message: str) -> None:
    with pytest.raises(Refusal, match=message) as refused:
        dialect.read(body)
    assert refused.value.status == 400


def test_messages_of_the_system_at_the_beginning_are_one() -> None:
    systems = [{"role": "system", "content": "a"}, {"role": "developer", "content": "b"}]
    assert CHAT.read({"messages": [*systems, *HELLO]}).messages[0] == ChatMessage("system", "a\n\nb")


@pytest.mark.parametrize(
    ("reply", "chat", "responses", "anthropic"),
    [
        (CALLED, "tool_calls", "completed", "tool_use"),
        (Reply(1, "x"), "stop", "completed", "end_turn"),
        (Reply(1, "x", finish="length"), "length", "incomplete", "max_tokens"),
        (Reply(1, "x", stopped_at="#"), "stop", "completed", "stop_sequence"),
    ],
)
def test_why_an_answer_ended_in_the_words_of_each_protocol(
    reply: Reply, chat: str, responses: str, anthropic: str
) -> None:
    request = ChatRequest(())
    assert CHAT.answer(request, reply)["choices"][0]["finish_reason"] == chat
    assert RESPONSES.answer(request, reply)["status"] == responses
    assert ANTHROPIC.answer(request, reply)["stop_reason"] == anthropic


def test_log_probs_are_those_of_the_sampled_tokens() -> None:
    reply = Reply(1, "ab", logprobs=(("a", -0.5), ("b", -1.5)))
    told = CHAT.answer(ChatRequest((), logprobs=True), reply)["choices"][0]["logprobs"]["content"]
    assert [(entry["token"], entry["logprob"], entry["bytes"]) for entry in told] == [
        ("a", -0.5, [97]),
        ("b", -1.5, [98]),
    ]


def events(raw: list[bytes]) -> list[dict[str, Any]]:
    """The data of server-sent events, each of which has to end in an empty line and name its own type."""
    found = []
    for one in raw:
        *name, data = one.decode().removesuffix("\n\n").split("\n")
        assert one.endswith(b"\n\n")
        if data != "data: [DONE]":
            found.append(json.loads(data.removeprefix("data: ")))
            assert not name or name == [f"event: {found[-1]['type']}"]
    return found


def test_anthropics_events_open_fill_and_close_every_block() -> None:
    told = events(list(ANTHROPIC.events(ChatRequest((), stream=True), CALLED)))
    block = ["content_block_start", "content_block_delta", "content_block_stop"]
    thinking = [block[0], block[1], block[1], block[2]]
    assert [one["type"] for one in told] == [
        "message_start",
        *thinking,
        *block,
        *block,
        "message_delta",
        "message_stop",
    ]
    assert [one["index"] for one in told if "index" in one] == [0] * 4 + [1] * 3 + [2] * 3
    assert told[9]["delta"] == {"type": "input_json_delta", "partial_json": '{"a":1}'}
    assert told[-2]["delta"]["stop_reason"] == "tool_use"


def test_events_of_responses_are_numbered_and_end_with_the_whole() -> None:
    told = events(list(RESPONSES.events(ChatRequest((), stream=True), CALLED)))
    assert [one["sequence_number"] for one in told] == list(range(len(told)))
    assert told[-1]["type"] == "response.completed"
    assert told[-1]["response"] == RESPONSES.answer(ChatRequest(()), CALLED)
    done = [one["item"] for one in told if one["type"] == "response.output_item.done"]
    assert done == told[-1]["response"]["output"]


def test_the_deltas_of_a_chat_are_its_message() -> None:
    raw = list(CHAT.events(ChatRequest((), stream=True, usage_in_stream=True), CALLED))
    assert raw[-1] == b"data: [DONE]\n\n"
    told = events(raw)
    deltas = [one["choices"][0]["delta"] for one in told if one["choices"]]
    assert "".join(delta.get("content") or "" for delta in deltas) == "so"
    assert "".join(delta.get("reasoning_content", "") for delta in deltas) == "hm"
    assert [call["function"]["name"] for delta in deltas for call in delta.get("tool_calls", ())] == ["add"]
    assert told[-1]["usage"] == {"prompt_tokens": 10, "completion_tokens": 4, "total_tokens": 14}

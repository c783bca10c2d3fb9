"""The protocols: what requests say, and what answers look like on the wire."""

from __future__ import annotations

from typing import Any

import pytest

from rlscale.rollout.endpoint.anthropic_messages import AnthropicMessages
from rlscale.rollout.endpoint.chat_messages import ChatMessage, ToolCall, same
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
        (CHAT, {"messages": HELLO, "top_logprobs": 5}, "top_logprobs=5 is not supported: log-probs are those"),
        (
            CHAT,
            {"messages": HELLO, "response_format": {"type": "json_object"}},
            "response_format=.*json_object.* is not supported",
        ),
        (
            CHAT,
            {"messages": HELLO, "best_of": 4},
            "best_of=4 is not supported: .* call several times, each with another seed",
        ),
        (CHAT, {"messages": HELLO, "logit_bias": {"9": 1}}, "logit_bias={'9': 1} is not supported"),
        (CHAT, {"messages": HELLO, "functions": [{"name": "f"}]}, "functions=.* is not supported: use tools"),
        (CHAT, {"messages": HELLO, "modalities": ["audio"]}, "modalities=.* is not supported"),
        (CHAT, {"messages": HELLO, "guided_json": {"type": "object"}}, "guided_json=.* is not supported"),
        (
            CHAT,
            {"messages": HELLO, "chat_template_kwargs": {"enable_thinking": False}},
            "chat_template_kwargs=.* is not",
        ),
        (CHAT, {"messages": HELLO, "tool_choice": {"type": "allowed_tools"}}, "tool_choice 'allowed_tools' is not"),
        (
            CHAT,
            {"messages": HELLO, "tool_choice": "sometimes"},
            "tool_choice 'sometimes' is not supported; there are auto",
        ),
        (CHAT, {"messages": HELLO, "seed": "one"}, "seed must be an integer"),
        (
            CHAT,
            {"messages": HELLO, "tools": [{"function": {"name": "f", "parameters": "x"}}]},
            "tool f: its parameters must",
        ),
        (CHAT, {"messages": [{"role": "assistant", "function_call": {"name": "f"}}]}, "function_call is not supported"),
        (CHAT, {"messages": []}, "there are no messages"),
        (CHAT, {"messages": "hello"}, "messages must be a list"),
        (CHAT, {"messages": ["hello"]}, "message 0 must be an object"),
        (CHAT, {"messages": HELLO, "max_tokens": 0}, "max_tokens must be a positive integer"),
        (CHAT, {"messages": HELLO, "stop": [1]}, "stop must be a text or a list of texts"),
        (CHAT, {"messages": [{"role": "robot", "content": "x"}]}, "role 'robot' is not one of"),
        (CHAT, {"messages": [*HELLO, {"role": "assistant", "content": "I"}]}, "prefill"),
        (CHAT, {"messages": HELLO, "tools": [{"type": "web_search"}]}, "tools of type 'web_search'"),
        (RESPONSES, {"input": "x", "previous_response_id": "resp_1"}, "previous_response_id=resp_1 is not supported"),
        (
            RESPONSES,
            {"input": "x", "text": {"format": {"type": "json_schema"}}},
            "text=.*json_schema.* is not supported",
        ),
        (
            RESPONSES,
            {"input": "x", "truncation": "auto"},
            "truncation=auto is not supported: what does not fit is refused",
        ),
        (RESPONSES, {"input": "x", "include": ["message.output_text.logprobs"]}, "include=.* is not supported"),
        (RESPONSES, {"input": "x", "background": True}, "background=True is not supported"),
        (RESPONSES, {"input": "x", "stop": ["a"]}, "stop=.* is not supported"),
        (RESPONSES, {"input": [{"role": "user", "content": [{"type": "input_image"}]}]}, "'input_image' are not"),
        (RESPONSES, {"input": "x", "tools": [{"type": "file_search"}]}, "tools of type 'file_search'"),
        (RESPONSES, {"input": [{"type": "computer_call"}]}, "input 0: items of type 'computer_call'"),
        (ANTHROPIC, {"messages": [{"role": "user", "content": [{"type": "image"}]}]}, "parts of type 'image'"),
        (ANTHROPIC, {"messages": HELLO, "tools": [{"type": "bash_20250124", "name": "bash"}]}, "'bash_20250124'"),
        (ANTHROPIC, {"messages": [{"role": "system", "content": "x"}]}, "role 'system' is not one of"),
        (ANTHROPIC, {"messages": HELLO, "output_config": {"format": {}}}, "output_config=.* is not supported"),
        (ANTHROPIC, {"messages": HELLO, "mcp_servers": [{"url": "x"}]}, "mcp_servers=.* is not supported"),
        (ANTHROPIC, {"messages": HELLO, "tool_choice": {"type": "most"}}, "tool_choice 'most' is not supported"),
        (
            ANTHROPIC,
            {"messages": [{"role": "user", "content": [{"type": "tool_result", "content": [{"type": "image"}]}]}]},
            r"message 0 \(tool_result\): parts of type 'image'",
        ),
    ],
)
def test_what_is_not_supported_is_refused_by_name(dialect: Dialect, body: dict[str, Any], message: str) -> None:
    with pytest.raises(Refusal, match=message) as refused:
        dialect.read(body)
    assert refused.value.status == 400


RUNS_OWN = {"temperature": 0.1, "top_p": 0.9, "presence_penalty": 1, "reasoning_effort": "low"}
HARMLESS = {"metadata": {"a": "b"}, "user": "me", "store": True, "service_tier": "auto", "prompt_cache_key": "k"}


@pytest.mark.parametrize(
    ("dialect", "body", "unheeded"),
    [
        (CHAT, {**RUNS_OWN, **HARMLESS, "tool_choice": "required"}, {**RUNS_OWN, "tool_choice": "required"}),
        (CHAT, {"n": 1, "response_format": {"type": "text"}, "logit_bias": {}, "top_logprobs": None}, {}),
        (RESPONSES, {"top_p": 1, "text": {"format": {"type": "text"}}, "truncation": "disabled"}, {"top_p": 1}),
        (ANTHROPIC, {"top_k": 5, "thinking": {"type": "disabled"}, "cache_control": {"type": "ephemeral"}},
         {"top_k": 5, "thinking": {"type": "disabled"}}),
        (ANTHROPIC, {"output_config": {"effort": "low"}}, {"effort": "low"}),
        (CHAT, {"tools": [{"type": "function", "function": {"name": "a", "strict": True}}]}, {"strict": True}),
        (CHAT, {"tools": [{"type": "function", "function": {"name": "a", "strict": False}}]}, {}),
        (RESPONSES, {"tools": [{"type": "function", "name": "a", "strict": True}]}, {"strict": True}),
        (ANTHROPIC, {"tools": [{"name": "a", "strict": True, "input_schema": {}}]}, {"strict": True}),
        (ANTHROPIC, {"tool_choice": {"type": "tool", "name": "add"}}, {"tool_choice": {"type": "tool", "name": "add"}}),
    ],
)  # fmt: skip
def test_what_is_the_runs_to_decide_is_told_and_what_changes_nothing_is_not(
    dialect: Dialect, body: dict[str, Any], unheeded: dict[str, Any]
) -> None:
    said = {"input": "x"} if dialect is RESPONSES else {"messages": HELLO}
    assert dialect.read({**said, **body}).unheeded == unheeded


@pytest.mark.parametrize(
    ("dialect", "fields"),
    [
        (CHAT, {"messages": HELLO, "parallel_tool_calls": False}),
        (RESPONSES, {"input": "x", "parallel_tool_calls": False}),
        (ANTHROPIC, {"messages": HELLO, "tool_choice": {"type": "auto", "disable_parallel_tool_use": True}}),
    ],
)
def test_one_call_at_most_and_a_seed_are_asked_for_by_every_protocol(dialect: Dialect, fields: dict[str, Any]) -> None:
    request, other = dialect.read({**fields, "seed": 1}), dialect.read({**fields, "seed": 2})
    assert (request.one_call, request.seed) == (True, 1)
    assert request.identity != other.identity
    assert request.identity == dialect.read({**fields, "seed": 1}).identity


def test_the_smaller_bound_of_tokens_counts_and_a_refusal_sent_back_is_text() -> None:
    refused = [*HELLO, {"role": "assistant", "content": None, "refusal": "no"}, *HELLO]
    request = CHAT.read({"messages": refused, "max_tokens": 5, "max_completion_tokens": 7})
    assert (request.max_tokens, request.messages[1].text) == (5, "no")


def test_who_speaks_is_given_to_the_template() -> None:
    said = [{"role": "user", "content": "hi", "name": name} for name in ("ann", "bob")]
    ann, bob = (CHAT.read({"messages": [one]}) for one in said)
    assert ann.messages[0].rendered() == said[0]
    assert ann.identity != bob.identity
    assert not same(ann.messages[0], bob.messages[0])


def test_the_policy_is_told_that_a_tool_failed() -> None:
    blocks = [
        {"type": "tool_result", "tool_use_id": "z", "content": said, "is_error": True} for said in ("no", "Error")
    ]
    read = ANTHROPIC.read({"messages": [{"role": "user", "content": blocks}]})
    assert [message.text for message in read.messages] == ["Error: no", "Error"]


def test_a_name_that_utf_8_has_no_bytes_for_is_sent_as_its_escape() -> None:
    request = ChatRequest((), stream=True, model="\ud800")
    for dialect in (CHAT, RESPONSES, ANTHROPIC):
        for raw in dialect.events(request, Reply(1, "x")):
            raw.decode()


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

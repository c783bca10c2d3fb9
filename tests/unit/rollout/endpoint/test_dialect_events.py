"""Streamed answers: the events of each protocol, and that together they are the whole answer."""

from __future__ import annotations

import json
from typing import Any

from rlscale.rollout.endpoint.dialect import ChatRequest
from tests.unit.rollout.endpoint.test_dialects import ANTHROPIC, CALLED, CHAT, RESPONSES


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

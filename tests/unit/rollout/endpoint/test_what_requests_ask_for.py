"""Sessions: what a request asks for beside its messages, and what of it is heeded."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

from scripted_policy import Played, Say, TaggedCalls, counting

from rlscale.data.tokens.prompt_encoder import PromptEncoder
from rlscale.rollout.endpoint.chat_messages import ToolCall
from rlscale.rollout.endpoint.dialect import ChatRequest
from rlscale.rollout.endpoint.openai_chat import OpenAIChat
from rlscale.rollout.endpoint.output_parser import Parsed

ADD = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}
CHAT = OpenAIChat()
QUESTION = {"role": "user", "content": "1 + 2?"}


def asked(*messages: dict[str, Any], **fields: Any) -> ChatRequest:
    return CHAT.read({"messages": [QUESTION, *messages], **fields})


def play(encoder: PromptEncoder, scenario: Callable[[Played], Awaitable[Any]], say: Say | None = None) -> Played:
    """The session after the scenario, in which every token has been accounted for."""

    async def main() -> Played:
        played = Played(encoder, say or counting())
        await asyncio.wait_for(scenario(played), 20)
        assert played.balanced()
        return played

    return asyncio.run(main())


def test_where_one_call_is_wanted_the_others_stay_in_the_tokens(encoder: PromptEncoder) -> None:
    class Both(TaggedCalls):
        async def calls(self, text: str, tools: Any) -> Parsed:
            return Parsed("", tuple(ToolCall("add", f'{{"a":{number}}}') for number in (1, 2)))

    async def scenario(played: Played) -> None:
        played.session._policy = replace(played.policy, parser=Both())
        for fields, calls in ({"parallel_tool_calls": False}, 1), ({}, 2):
            request = asked(tools=[ADD], **fields)
            reply = await played.session.call(request)
            assert len(reply.calls) == calls
            result = {"role": "tool", "tool_call_id": reply.calls[0].id, "content": "3"}
            await played.session.call(
                asked(CHAT.answer(request, reply)["choices"][0]["message"], result, tools=[ADD], **fields)
            )

    played = play(encoder, scenario, lambda prompt: "<call>two</call>")
    assert [len(sequence) for sequence in played.session.tree.sequences()] == [2, 2]


def test_another_seed_draws_another_answer_to_the_same_request(encoder: PromptEncoder) -> None:
    async def scenario(played: Played) -> None:
        texts = [(await played.session.call(asked(seed=seed))).text for seed in (None, 1, 2, 1)]
        assert texts == ["answer 0", "answer 1", "answer 2", "answer 1"]

    played = play(encoder, scenario)
    assert len(set(played.seeds)) == 3
    assert played.session.repeated == 1


def test_what_the_run_decides_otherwise_is_remembered_by_name(encoder: PromptEncoder) -> None:
    async def scenario(played: Played) -> None:
        await played.session.call(asked(temperature=1.0, top_p=0.5, tools=[ADD], tool_choice="required"))

    assert play(encoder, scenario).session.unheeded == {"top_p": 0.5, "tool_choice": "required"}

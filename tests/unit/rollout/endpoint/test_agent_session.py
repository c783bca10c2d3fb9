"""Sessions: what calls become, on an engine that says what the test wants, through the real client and templates."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scripted_policy import Played, Say, counting, make_encoder

from rlscale.data.sample import Prompt, Sample
from rlscale.data.tokens.prompt_encoder import PromptEncoder
from rlscale.rollout.endpoint.agent_session import Limits
from rlscale.rollout.endpoint.dialect import ChatRequest, Refusal, Reply
from rlscale.rollout.endpoint.openai_chat import OpenAIChat

ADD = {
    "type": "function",
    "function": {"name": "add", "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}}},
}
CHAT = OpenAIChat()


def asked(*messages: dict[str, Any], **fields: Any) -> ChatRequest:
    return CHAT.read({"messages": list(messages), **fields})


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def sent_back(request: ChatRequest, reply: Reply) -> dict[str, Any]:
    """The answer as clients put it into their next request."""
    message: dict[str, Any] = CHAT.answer(request, reply)["choices"][0]["message"]
    return message


def sample(played: Played) -> Sample:
    prompt = Prompt(0, "0", np.zeros(1, np.int32), None)
    return played.session.tree.trajectory().sample(prompt, 0)


def texts(played: Played) -> list[str]:
    """What each segment trains on."""
    whole, start, found = sample(played), 0, []
    for segment in whole.segments:
        part = slice(start, start + segment.length)
        start += segment.length
        found.append(played.encoder.tokenizer.decode(whole.tokens[part][whole.loss_mask[part]].tolist()))
    return found


def play(
    encoder: PromptEncoder, scenario: Callable[[Played], Awaitable[Any]], say: Say | None = None, **how: Any
) -> Played:
    """The session after the scenario, in which every token has been accounted for."""

    async def main() -> Played:
        played = Played(encoder, say or counting(), **how)
        await asyncio.wait_for(scenario(played), 20)
        assert played.balanced()
        return played

    return asyncio.run(main())


async def talk(played: Played, questions: int, start: str = "hello") -> list[dict[str, Any]]:
    said = [user(start)]
    for number in range(questions):
        request = asked(*said)
        said += [sent_back(request, await played.session.call(request)), user(f"and {number}?")]
    return said


@pytest.mark.parametrize("template", ["qwen2_5", "qwen3", "qwen3_instruct"])
def test_a_conversation_that_grows_is_one_segment_by_every_template(tmp_path: Path, template: str) -> None:
    played = play(make_encoder(tmp_path, template), lambda played: talk(played, 4))
    end = played.encoder.end_of_turn.text
    assert texts(played) == ["".join(f"answer {number}{end}" for number in range(4))]
    # What the engine was given each time is what it was given before, what it said, and something new.
    for number, (before, after) in enumerate(zip(played.engine.prompts, played.engine.prompts[1:], strict=False)):
        assert after.startswith(f"{before}answer {number}{end}")
        assert f"and {number}?" in after.removeprefix(before)


def test_calls_of_tools_and_their_results_are_turns_of_one_segment(encoder: PromptEncoder) -> None:
    def say(prompt: str) -> str:
        return "it is 3" if "tool_response" in prompt else '<think>hm</think>so <call>add {"a": 1}</call>'

    async def scenario(played: Played) -> None:
        first = asked(user("1 + 2?"), tools=[ADD])
        reply = await played.session.call(first)
        assert (reply.thinking, reply.text, reply.finish) == ("hm", "so", "calls")
        message = sent_back(first, reply)
        assert json.loads(message["tool_calls"][0]["function"]["arguments"]) == {"a": 1}
        renamed = {**message["tool_calls"][0], "id": "mine"}
        result = {"role": "tool", "tool_call_id": "mine", "content": "3"}
        message = {**message, "tool_calls": [renamed], "content": message["content"]}
        reply = await played.session.call(asked(user("1 + 2?"), message, result, tools=[ADD]))
        assert (reply.text, reply.finish) == ("it is 3", "stop")

    played = play(encoder, scenario, say)
    assert texts(played) == ['<think>hm</think>so <call>add {"a": 1}</call><|im_end|>it is 3<|im_end|>']
    assert "<tool_response>\n3\n</tool_response>" in played.engine.prompts[1]
    assert played.session.tree.tools == ["add"]


def test_a_call_that_is_cut_off_is_text_and_ends_for_its_length(encoder: PromptEncoder) -> None:
    async def scenario(played: Played) -> None:
        for fields in ({}, {"max_tokens": 12}):
            reply = await played.session.call(asked(user("1 + 2?"), tools=[ADD], **fields))
            said = '<call>add {"a": 1'
            assert (reply.text, reply.calls, reply.finish) == (said[: fields.get("max_tokens")], (), "length")

    played = play(encoder, scenario, lambda prompt: '<call>add {"a": 1')
    assert played.session.finish == "length"


def test_calls_are_not_looked_for_where_the_client_wants_none(encoder: PromptEncoder) -> None:
    async def scenario(played: Played) -> None:
        reply = await played.session.call(asked(user("1 + 2?"), tools=[ADD], tool_choice="none"))
        assert (reply.text, reply.calls, reply.finish) == ("<call>add {}</call>", (), "stop")

    play(encoder, scenario, lambda prompt: "<call>add {}</call>")


def test_a_turn_that_was_cut_off_is_closed_by_tokens_that_are_not_trained(encoder: PromptEncoder) -> None:
    async def scenario(played: Played) -> None:
        first = asked(user("hello"), max_tokens=3)
        reply = await played.session.call(first)
        assert (reply.text, reply.finish, reply.completion_tokens) == ("ans", "length", 3)
        await played.session.call(asked(user("hello"), sent_back(first, reply), user("go on")))

    played = play(encoder, scenario)
    assert texts(played) == ["ansanswer 1<|im_end|>"]
    assert "ans<|im_end|>\n<|im_start|>user\ngo on<|im_end|>" in played.engine.prompts[1]


def test_a_stop_of_the_client_is_left_out_of_the_text_and_stays_in_the_tokens(encoder: PromptEncoder) -> None:
    async def scenario(played: Played) -> None:
        first = asked(user("hello"), stop="STOP")
        reply = await played.session.call(first)
        assert (reply.text, reply.stopped_at, reply.finish) == ("done ", "STOP", "stop")
        await played.session.call(asked(user("hello"), sent_back(first, reply), user("more")))

    played = play(encoder, scenario, lambda prompt: "done STOP")
    assert played.engine.sampling[0]["stop"] == ("STOP",)
    assert "stop" not in played.engine.sampling[1]
    assert texts(played) == ["done STOP<|im_end|>" * 2]


def test_four_sub_agents_at_once_are_segments_with_seeds_of_their_own(encoder: PromptEncoder) -> None:
    async def scenario(played: Played) -> None:
        await asyncio.gather(*(talk(played, 3, start=f"you are agent {number}") for number in range(4)))

    played = play(encoder, scenario, lambda prompt: f"answer {prompt.count('?')} of {prompt.partition('agent ')[2][0]}")
    said = ["".join(f"answer {turn} of {agent}<|im_end|>" for turn in range(3)) for agent in range(4)]
    assert sorted(texts(played)) == said
    assert len(set(played.seeds)) == 12


def test_what_is_sampled_depends_on_the_conversation_and_not_on_the_order_of_calls(encoder: PromptEncoder) -> None:
    def seeds(order: list[int]) -> dict[str, int]:
        async def scenario(played: Played) -> None:
            for number in order:
                await played.session.call(asked(user(f"question {number}")))

        played = play(encoder, scenario)
        return dict(zip(played.engine.prompts, played.seeds, strict=True))

    assert seeds([0, 1, 2]) == seeds([2, 0, 1])


def test_a_summary_opens_a_segment_and_the_old_conversation_can_go_on(encoder: PromptEncoder) -> None:
    async def scenario(played: Played) -> None:
        said = await talk(played, 2)
        await played.session.call(asked(user("in short: hello, twice"), user("now what?")))
        await played.session.call(asked(*said))

    played = play(encoder, scenario)
    assert texts(played) == ["answer 0<|im_end|>answer 1<|im_end|>answer 3<|im_end|>", "answer 2<|im_end|>"]


def test_a_history_that_forgot_its_thinking_is_the_same_and_counted(encoder: PromptEncoder) -> None:
    async def scenario(played: Played) -> None:
        first = asked(user("hello"))
        message = sent_back(first, await played.session.call(first))
        assert message.pop("reasoning_content") == "hm"
        await played.session.call(asked(user("hello"), message, user("more")))

    played = play(encoder, scenario, lambda prompt: "<think>hm</think>yes")
    assert texts(played) == ["<think>hm</think>yes<|im_end|>" * 2]
    assert played.session.tree.forgotten == 1


def test_repeated_calls_get_the_answer_that_was_given_also_while_it_is_being_generated(encoder: PromptEncoder) -> None:
    async def scenario(played: Played) -> None:
        played.engine.hold.clear()
        calls = [asyncio.create_task(played.session.call(asked(user("hello")))) for _ in range(3)]
        await asyncio.sleep(0.01)
        played.engine.hold.set()
        replies = [*(await asyncio.gather(*calls)), await played.session.call(asked(user("hello")))]
        assert {reply.text for reply in replies} == {"answer 0"}
        assert {reply.number for reply in replies} == {1}

    played = play(encoder, scenario)
    assert len(played.engine.prompts) == 1
    assert played.session.repeated == 3
    assert texts(played) == ["answer 0<|im_end|>"]


def test_an_answer_whose_client_has_gone_is_not_kept_and_a_retry_draws_by_the_same_seed(encoder: PromptEncoder) -> None:
    async def scenario(played: Played) -> None:
        played.engine.hold.clear()
        lost = asyncio.create_task(played.session.call(asked(user("hello"))))
        await asyncio.sleep(0.01)
        lost.cancel()
        await asyncio.gather(lost, return_exceptions=True)
        played.engine.hold.set()
        assert (await played.session.call(asked(user("hello")))).text == "answer 1"

    played = play(encoder, scenario)
    assert texts(played) == ["answer 1<|im_end|>"]
    assert len(set(played.seeds)) == 1


def test_one_of_two_that_wait_may_go_and_the_other_gets_the_answer(encoder: PromptEncoder) -> None:
    async def scenario(played: Played) -> None:
        played.engine.hold.clear()
        first, second = (asyncio.create_task(played.session.call(asked(user("hello")))) for _ in range(2))
        await asyncio.sleep(0.01)
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        played.engine.hold.set()
        assert (await second).text == "answer 0"

    assert texts(play(encoder, scenario)) == ["answer 0<|im_end|>"]


def test_an_answer_that_could_not_be_written_is_discarded(encoder: PromptEncoder) -> None:
    async def scenario(played: Played) -> None:
        request = asked(user("hello"))
        await played.session.call(request)
        played.session.undelivered(request)
        assert (await played.session.call(request)).text == "answer 1"

    played = play(encoder, scenario)
    assert texts(played) == ["answer 1<|im_end|>"]
    assert played.ledger.tokens.fates["discarded_client_gone"] == len("answer 0") + 1


def test_a_weight_sync_in_the_middle_of_a_call_is_not_noticed_by_the_agent(encoder: PromptEncoder) -> None:
    async def scenario(played: Played) -> None:
        played.engine.hold.clear()
        call = asyncio.create_task(played.session.call(asked(user("hello"))))
        await asyncio.sleep(0.01)
        with played.cuts.cutting():
            played.engine.hold.set()
            played.engine.aborted.set()
        assert (await call).text == "answer, and more"

    played = play(encoder, scenario, lambda prompt: "er, and more" if prompt.endswith("answ") else "answer 0")
    assert texts(played) == ["answer, and more<|im_end|>"]
    assert played.seeds[0] == played.seeds[-1]


def test_a_session_that_ends_refuses_those_who_wait_and_those_who_come(encoder: PromptEncoder) -> None:
    async def scenario(played: Played) -> None:
        await played.session.call(asked(user("hello")))
        played.engine.hold.clear()
        waiting = asyncio.create_task(played.session.call(asked(user("slow"))))
        await asyncio.sleep(0.01)
        await played.session.close(lambda: Refusal(410, "session_closed", "over"))
        for call in (waiting, played.session.call(asked(user("late"))), played.session.call(asked(user("hello")))):
            with pytest.raises(Refusal, match="over") as refused:
                await call
            assert refused.value.status == 410

    assert texts(play(encoder, scenario)) == ["answer 0<|im_end|>"]


@pytest.mark.parametrize(
    ("how", "code", "message"),
    [
        ({"limits": Limits(2)}, "max_turns", "has had its rollout.max_turns=2 answers"),
        ({"tokens": 18}, "context_length_exceeded", "18 of 18 tokens have been generated"),
        ({"longest": 180}, "context_length_exceeded", "no room for an answer: the conversation is"),
    ],
)
def test_the_end_of_a_budget_is_told_and_remembered(
    encoder: PromptEncoder, how: dict[str, Any], code: str, message: str
) -> None:
    async def scenario(played: Played) -> None:
        with pytest.raises(Refusal, match=message) as refused:
            await talk(played, 9)
        assert (refused.value.status, refused.value.code) == (400, code)

    played = play(encoder, scenario, **how)
    assert played.session.over_budget
    assert len(texts(played)) == 1


def test_no_answer_is_longer_than_a_turn_may_be(encoder: PromptEncoder) -> None:
    played = play(encoder, lambda played: talk(played, 2), limits=Limits(9, max_turn_tokens=4))
    assert texts(played) == ["answansw"]
    assert [sampling["max_new_tokens"] for sampling in played.engine.sampling] == [4, 4]


def test_a_conversation_that_the_template_refuses_is_the_clients_error(tmp_path: Path) -> None:
    template = make_encoder(tmp_path)
    template.tokenizer.chat_template = "{{ raise_exception('roles must alternate') }}"

    async def scenario(played: Played) -> None:
        with pytest.raises(Refusal, match=r"refused by the chat template: .*roles must alternate") as refused:
            await played.session.call(asked(user("hello")))
        assert refused.value.status == 400

    assert not play(template, scenario).session.over_budget

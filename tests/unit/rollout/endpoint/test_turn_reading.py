"""What an environment is told of a turn: thinking and calls apart from the text, through a whole episode."""

from __future__ import annotations

import asyncio
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
from scripted_policy import Played, TaggedCalls

from rlscale.data.sample import Prompt, Sample
from rlscale.data.tokens.prompt_encoder import PromptEncoder
from rlscale.envs.environment import Action, Call, Environment, Start, Step
from rlscale.rollout.attempt import Attempt
from rlscale.rollout.endpoint.chat_messages import ToolCall
from rlscale.rollout.endpoint.output_parser import Parsed
from rlscale.rollout.engines.generation import RequestFailed
from rlscale.rollout.episode import Episodes, Judging, Place, SampleFailed
from rlscale.rollout.failures import FailureRate
from rlscale.rollout.turn_reading import begins_to_think

ADD = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}
CALLING = '<think>sum</think>so <call>add {"a": 1}</call>'


class Adds(Environment):
    """Tells the policy of a tool and keeps what it is given of its turns."""

    def __init__(self) -> None:
        self.actions: list[Action] = []

    async def reset(self, prompt: Prompt, seed: int) -> Start:
        return Start(tools=[ADD])

    async def step(self, action: Action) -> Step:
        self.actions.append(action)
        return Step([{"role": "tool", "content": "3"}], done=len(self.actions) == 2)


class HalfRead(TaggedCalls):
    """Reads a call also where another follows that is cut off, as SGLang does."""

    async def calls(self, text: str, tools: Any) -> Parsed:
        return Parsed("so", (ToolCall("add", "{}"),)) if text.count("<call>") == 2 else Parsed(text)


class Unreachable(TaggedCalls):
    async def reasoning(self, text: str, *, begun: bool = False) -> tuple[str, str]:
        raise RequestFailed("no engine")


def play(encoder: PromptEncoder, parser: Any, said: list[str], longest: int = 2000) -> tuple[list[Action], Sample]:
    environment, answers = Adds(), iter(said)

    async def main() -> Sample:
        played = Played(encoder, lambda prompt: next(answers), tokens=longest)
        policy, failures = played.policy, FailureRate("things", "key", 1.0, 10)
        judging = Judging(lambda: environment, failures)
        episodes = Episodes(policy.engines, encoder, policy.sampling, failures, judging, parser=parser)
        messages = [{"role": "user", "content": "1 + 2?"}]
        prompt = Prompt(0, "0", encoder.encode_conversation(messages), None, messages=messages)
        return await episodes.play(prompt, Place(0, int, Attempt(lambda: 0)), nullcontext())

    return environment.actions, asyncio.run(main())


def test_thinking_and_calls_are_told_apart_and_the_tokens_stay(encoder: PromptEncoder) -> None:
    (first, last), sample = play(encoder, TaggedCalls(), [CALLING, "it is 3"])
    assert (first.thinking, first.calls, first.text) == ("sum", (Call("add", {"a": 1}),), "so")
    assert first.raw_text == f"{CALLING}<|im_end|>"
    assert (last.thinking, last.calls, last.text, last.unread_call) == ("", (), "it is 3", False)
    without, same = play(encoder, None, [CALLING, "it is 3"])
    assert [action.text for action in without] == [CALLING, "it is 3"]
    assert same.tokens.tolist() == sample.tokens.tolist()
    assert [action.tokens for action in without] == [first.tokens, last.tokens]
    assert sample.info["tools"] == ["add"]


class Told(TaggedCalls):
    """Keeps whether it was told that the prompt had begun the thinking."""

    def __init__(self) -> None:
        self.begun: list[bool] = []

    async def reasoning(self, text: str, *, begun: bool = False) -> tuple[str, str]:
        self.begun.append(begun)
        return await super().reasoning(text)


def test_whether_the_prompt_has_begun_the_thinking_is_told_the_parser(encoder: PromptEncoder) -> None:
    told = Told()
    play(encoder, told, ["a", "b"])
    assert told.begun == [False, False]
    ids = encoder.tokenizer("so it ends: <think>\n", add_special_tokens=False)["input_ids"]
    assert begins_to_think(encoder, np.array(ids, np.int32))
    assert not begins_to_think(encoder, np.array(ids[:-3], np.int32))


def test_a_call_that_is_not_finished_is_told_and_stays_in_the_text(encoder: PromptEncoder) -> None:
    (first, _), _ = play(encoder, TaggedCalls(), ["<think>sum</think><call>add {", "?"])
    assert (first.calls, first.unread_call, first.text, first.finish) == ((), True, "<call>add {", "stop")


def test_of_a_turn_that_was_cut_at_the_limit_no_call_counts(encoder: PromptEncoder) -> None:
    text = "<call>add {}</call><call>add {" + 50 * " "
    (only,), sample = play(encoder, HalfRead(), [text], longest=40)
    assert (only.calls, only.unread_call, only.text, only.finish) == ((), True, text[:40], "length")
    assert sample.truncated


def test_a_parser_that_cannot_be_asked_is_a_failed_request(encoder: PromptEncoder) -> None:
    with pytest.raises(SampleFailed, match="no engine") as failed:
        play(encoder, Unreachable(), ["yes"])
    assert failed.value.where == "request"

"""The clients that OpenAI and Anthropic publish, in their own Python, against the endpoint and a scripted engine.

What is asserted of every conversation: each token that the engine sent is trainable in exactly one segment, or was
discarded because its client had gone.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np
import pytest

from rlscale.data.sample import Prompt, Sample
from rlscale.data.tokens.prompt_encoder import PromptEncoder
from rlscale.rollout.endpoint.endpoint_server import EndpointServer
from tests.e2e.clients.outside import Outside
from tests.unit.rollout.endpoint.scripted_policy import Played, Say, counting, make_encoder

PROTOCOLS = ["chat", "responses", "messages"]
every_protocol = pytest.mark.parametrize("protocol", PROTOCOLS)
Meanwhile = Callable[[Played], Awaitable[Any]]
LEFT = "0-0=?"
"""The question that conversations.py gives up."""
CALL = '<think>hm</think>so <call>add {"a": 1}</call>'


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> PromptEncoder:
    return make_encoder(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture
def converse(outside: Outside, encoder: PromptEncoder) -> Callable[..., tuple[Played, list[dict[str, Any]]]]:
    """`converse(scenario, protocol, ...)`: the session, and what the client heard; every token has a fate."""

    def call(
        scenario: str, protocol: str, say: Say | None = None, meanwhile: Meanwhile | None = None, **how: Any
    ) -> tuple[Played, list[dict[str, Any]]]:
        async def main() -> tuple[Played, list[dict[str, Any]]]:
            # A stream that shows signs of life never times out: clients that are to give up get none.
            played = Played(encoder, say or counting())
            server = EndpointServer(keep_alive_s=60 if "client" in how else 0.05)
            await server.start()
            try:
                async with server.open(played.session) as visit:
                    beside = asyncio.ensure_future(meanwhile(played)) if meanwhile else None
                    await asyncio.sleep(0)  # what it prepares is ready before the first call
                    talk = asyncio.to_thread(outside.have, scenario, protocol, visit, **how)
                    heard = await asyncio.wait_for(talk, 60)
                    if beside is not None:
                        await asyncio.wait_for(beside, 60)
                assert played.balanced()
                return played, heard
            except TimeoutError:
                outside.process.kill()  # its thread waits for it
                raise
            finally:
                await server.close()

        return asyncio.run(main())

    return call


def sample(played: Played) -> Sample:
    return played.session.tree.trajectory().sample(Prompt(0, "0", np.zeros(1, np.int32), None), 0)


def trained(played: Played) -> list[list[list[int]]]:
    """The tokens that are trained on: of each segment, those of each turn."""
    whole, start, found = sample(played), 0, []
    for segment in whole.segments:
        part = slice(start, start + segment.length)
        start += segment.length
        edges = np.flatnonzero(np.diff(whole.loss_mask[part].astype(int), prepend=0, append=0))
        turns = zip(edges[::2], edges[1::2], strict=True)
        found.append([whole.tokens[part][first:last].tolist() for first, last in turns])
    return found


def turns_of_segments(played: Played) -> list[int]:
    """Turns of each segment, after what every conversation must keep: sampled once, trainable once."""
    segments = trained(played)
    assert sorted(turn for segment in segments for turn in segment) == sorted(played.engine.sent)
    return [len(segment) for segment in segments]


def texts(heard: list[dict[str, Any]]) -> list[str]:
    return [turn["text"] for turn in heard]


@every_protocol
@pytest.mark.parametrize("stream", [False, True])
def test_a_conversation_that_grows_is_one_segment(converse: Any, protocol: str, stream: bool) -> None:
    played, heard = converse("linear", protocol, stream=stream)
    assert texts(heard) == [f"answer {number}" for number in range(4)]
    assert turns_of_segments(played) == [4]


@every_protocol
def test_an_edited_history_opens_a_segment(converse: Any, protocol: str) -> None:
    played, heard = converse("edited", protocol)
    assert texts(heard) == ["answer 0", "answer 1", "answer 2"]
    assert turns_of_segments(played) == [2, 1]


@every_protocol
def test_a_summary_opens_a_segment_and_what_it_sums_up_can_go_on(converse: Any, protocol: str) -> None:
    played, _ = converse("compacted", protocol)
    assert turns_of_segments(played) == [3, 1]


@every_protocol
def test_four_sub_agents_at_once_are_four_segments(converse: Any, protocol: str) -> None:
    played, heard = converse("parallel", protocol)
    assert sorted(texts(heard)) == sorted(f"answer {number}" for number in range(12))
    assert turns_of_segments(played) == [3, 3, 3, 3]


@every_protocol
@pytest.mark.parametrize("stream", [False, True])
def test_a_tools_result_continues_the_turn_that_called_it(converse: Any, protocol: str, stream: bool) -> None:
    def say(prompt: str) -> str:
        return "it is 3" if "tool_response" in prompt else CALL

    played, (first, second) = converse("calling", protocol, say, stream=stream, tools=True)
    called = first["calls"] if isinstance(first["calls"], dict) else json.loads(first["calls"])
    assert (first["text"], first["thinking"], called) == ("so", "hm", {"a": 1})
    assert second["text"] == "it is 3"
    assert turns_of_segments(played) == [2]
    assert played.session.tree.forgotten == 0


@every_protocol
def test_a_call_that_is_cut_off_is_text_and_ends_at_its_length(converse: Any, protocol: str) -> None:
    played, (heard,) = converse("once", protocol, lambda prompt: '<call>add {"a": 1', tools=True)
    assert (heard["text"], heard["calls"], heard["finish"]) == ('<call>add {"a": 1', None, "length")
    assert turns_of_segments(played) == [1]


@pytest.mark.parametrize("stream", [False, True])
def test_anthropics_client_sends_back_the_thinking_that_it_was_shown(converse: Any, stream: bool) -> None:
    said = counting()
    asked = {"thinking": {"type": "enabled", "budget_tokens": 1024}, "max_tokens": 1100}
    played, heard = converse("linear", "messages", lambda p: f"<think>hm</think>{said(p)}", stream=stream, **asked)
    assert [(turn["thinking"], turn["text"]) for turn in heard] == [("hm", f"answer {n}") for n in range(4)]
    assert turns_of_segments(played) == [4]
    assert played.session.tree.forgotten == 0


@every_protocol
@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_asks_again_after_its_time_out_has_one_turn(converse: Any, protocol: str, stream: bool) -> None:
    asked = []

    async def answer_when_asked_again(played: Played) -> None:
        again, answered = asyncio.Event(), played.session.call

        async def call(request: Any) -> Any:
            asked.append(request)
            if len(asked) == 2:
                again.set()
            return await answered(request)

        played.session.call = call
        played.engine.hold.clear()
        await again.wait()
        played.engine.hold.set()

    # No answer can come before it has given up once; where the machine stalls, it may do so more often.
    retries = {"timeout": 0.3, "max_retries": 20}
    played, (heard,) = converse("once", protocol, meanwhile=answer_when_asked_again, client=retries, stream=stream)
    assert len(asked) >= 2
    (turn,) = played.session.tree.turns
    assert turn.answer.text == heard["text"]
    assert [len(segment) for segment in trained(played)] == [1]
    assert len(set(played.seeds)) == 1


@every_protocol
@pytest.mark.parametrize("stream", [False, True])
def test_what_a_client_gave_up_is_no_turn(converse: Any, protocol: str, stream: bool) -> None:
    async def never_answer_the_first(played: Played) -> None:
        call, read, gone = played.session.call, played.policy.parser.reasoning, asyncio.Event()

        async def called(request: Any) -> Any:
            try:
                return await call(request)
            finally:
                if LEFT in str(request.messages):
                    gone.set()

        async def reasoning(text: str, **how: Any) -> tuple[str, str]:
            if text == "late":  # its tokens have come by now
                await asyncio.Event().wait()
            return await read(text, **how)

        played.session.call, played.policy.parser.reasoning = called, reasoning
        await gone.wait()

    def say(prompt: str) -> str:
        return "late" if LEFT in prompt else "answer"

    given_up = {"timeout": 0.3, "max_retries": 0}
    patient = {"meanwhile": never_answer_the_first, "client": given_up, "stream": stream}
    played, (heard,) = converse("leaving", protocol, say, **patient)
    assert heard["text"] == "answer"
    (*late, answer) = played.engine.sent  # where the machine stalls, nothing was generated before it gave up
    assert trained(played) == [[answer]]
    assert played.ledger.tokens.fates["discarded_client_gone"] == sum(map(len, late))


@every_protocol
@pytest.mark.parametrize("stream", [False, True])
def test_a_weight_sync_in_the_middle_of_a_call_is_not_noticed(converse: Any, protocol: str, stream: bool) -> None:
    async def sync(played: Played) -> None:
        played.engine.hold.clear()
        while not played.engine.prompts:
            await asyncio.sleep(0.005)
        with played.cuts.cutting():
            played.engine.hold.set()
            played.engine.aborted.set()

    def say(prompt: str) -> str:
        return "er, and more" if prompt.endswith("answ") else "answer 0"

    played, (heard,) = converse("once", protocol, say, meanwhile=sync, stream=stream)
    assert heard["text"] == "answer, and more"
    assert len(played.engine.sent) == 2
    assert trained(played) == [[played.engine.sent[0] + played.engine.sent[1]]]
    assert played.ledger.tokens.fates["discarded_cut_off"] == 0

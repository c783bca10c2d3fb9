"""The endpoint by the published chat templates: what agents' requests become, whatever they keep, change and repeat."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scripted_policy import Played

from rlscale.data.sample import Prompt
from rlscale.data.tokens.prompt_encoder import PromptEncoder
from rlscale.rollout.endpoint.chat_messages import ChatMessage, rendered
from rlscale.rollout.endpoint.dialect import ChatRequest
from tests.unit.data.tokens.published_families import FAMILIES, TEXTS, WHOLE, published_encoders, thoughts_of

Messages = tuple[ChatMessage, ...]


@pytest.fixture(scope="module")
def encoders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, PromptEncoder]:
    return published_encoders(tmp_path_factory)


@dataclass(frozen=True)
class Call:
    """What an agent asks, and what the policy says to it."""

    kind: str
    """`grow` the conversation, `branch` off at an earlier answer, or `edit` the first answer."""
    at: int
    """Which of the answers so far it goes on from."""
    text: str
    thought: str
    forgets: bool
    """Whether the agent sends the thought of this answer back."""


def calls_of(name: str) -> st.SearchStrategy[list[Call]]:
    """Some calls, answered by the family's model: most with a thought where it thinks."""
    thoughts = thoughts_of(name)
    kinds = st.sampled_from(["grow", "grow", "grow", "branch", "edit"])
    return st.lists(st.builds(Call, kinds, st.integers(0, 9), TEXTS, thoughts, st.booleans()), min_size=1, max_size=5)


def without_thoughts(text: str) -> str:
    """The text of a conversation without what was thought in it, and without the marks of thoughts."""
    return re.sub(r"(<think>[^<]*)?</think>\n*", "", text)


async def played_through(played: Played, calls: list[Call], look: Callable[[Messages, int | None], None]) -> int:
    """Play the calls and show each request, with the number of the turn that it goes on from; segments that must be."""
    states: list[Messages] = [()]
    continued, segments = set[int](), 0
    for number, call in enumerate(calls):
        at = 0 if call.kind == "edit" or not number else number if call.kind == "grow" else 1 + call.at % number
        said = states[at]
        if call.kind == "edit" and number:
            said = (*states[1][:1], ChatMessage("assistant", f"edited {number}"))
        request = ChatRequest((*said, ChatMessage("user", f"1+{number}")))
        reply = await played.session.call(request)
        look(request.messages, at - 1 if at else None)
        segments += not at or at in continued
        continued.add(at)
        thinking = None if call.forgets else reply.thinking
        states.append((*request.messages, ChatMessage("assistant", reply.text, thinking)))
    return segments


@pytest.mark.parametrize("name", FAMILIES)
@settings(
    max_examples=6,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(data=st.data())
def test_requests_are_the_tokens_of_before_and_what_the_template_writes_behind_them(
    name: str, encoders: dict[str, PromptEncoder], data: st.DataObject
) -> None:
    encoder, published, calls = encoders[name], FAMILIES[name], data.draw(calls_of(name))
    answers = iter(calls)

    def say(prompt: str) -> str:
        call = next(answers)
        return published.written(call.text, call.thought)

    played = Played(encoder, say, longest=10_000)

    def look(messages: Messages, parent: int | None) -> None:
        turns = played.session.tree.turns
        context = turns[-1].context
        whole = encoder.tokenizer.apply_chat_template(
            rendered(messages), tokenize=False, add_generation_prompt=True, **published.variables
        )
        assert without_thoughts(encoder.tokenizer.decode(context)) == without_thoughts(whole)
        if parent is not None:
            before = turns[parent].tokens
            assert context[: len(before)].tolist() == before.tolist()
        if parent is None or (name in WHOLE and not any(call.thought for call in calls)):
            assert context.tolist() == encoder.tokenizer(whole, add_special_tokens=False).input_ids

    segments = asyncio.run(played_through(played, calls, look))
    assert played.balanced()
    sample = played.session.tree.trajectory().sample(Prompt(0, "0", np.zeros(1, np.int32), None), 0)
    assert len(sample.segments) == segments
    assert sorted(sample.tokens[sample.loss_mask].tolist()) == sorted(
        token for sent in played.engine.sent for token in sent
    )

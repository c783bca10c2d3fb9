"""`history=template` by the published chat templates: the tokens are those of the whole, or a segment begins."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rlscale.config.schema.rollout_config import History
from rlscale.data.prompts.messages import Message
from rlscale.data.prompts.sources import RawPrompt
from rlscale.data.tokens.prompt_encoder import PromptEncoder
from rlscale.envs.environment import Action, Step
from rlscale.rollout.conversation import Conversation
from rlscale.rollout.engines.generation import Generation
from tests.unit.data.tokens.published_families import FAMILIES, TEXTS, WHOLE, published_encoders, thoughts_of


@pytest.fixture(scope="module")
def encoders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, PromptEncoder]:
    return published_encoders(tmp_path_factory)


@dataclass(frozen=True)
class Said:
    """A turn of the policy, and what follows it."""

    thought: str
    text: str
    answers: list[Message]
    cut: bool
    """Whether it was cut off before its last token."""


ANSWERS = st.lists(
    st.fixed_dictionaries({"role": st.sampled_from(["user", "tool"]), "content": TEXTS}), min_size=1, max_size=2
)


def turns_of(name: str) -> st.SearchStrategy[list[Said]]:
    """Some turns of the family's model, most with a thought where it thinks."""
    thoughts = thoughts_of(name)
    return st.lists(st.builds(Said, thoughts, TEXTS, ANSWERS, st.booleans()), min_size=1, max_size=4)


def sampled(name: str, encoder: PromptEncoder, turn: Said) -> np.ndarray:
    """The tokens of a turn as the family's model writes it, int32 [n]."""
    tokens = encoder.encode_response(FAMILIES[name].written(turn.text, turn.thought))
    if encoder.end_of_turn.text == "<|user|>" and turn.answers[0]["role"] == "tool":  # it stops at another opener
        tokens[-1] = encoder.tokenizer.convert_tokens_to_ids("<|observation|>")
    return tokens[:-1] if turn.cut else tokens


@pytest.mark.parametrize("name", FAMILIES)
@settings(
    max_examples=10,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(data=st.data())
def test_after_every_turn_the_tokens_are_those_of_the_whole_and_segments_are_counted(
    name: str, encoders: dict[str, PromptEncoder], data: st.DataObject
) -> None:
    encoder = encoders[name]
    prompt = encoder.encode(RawPrompt(0, "0", "1+1"))
    assert prompt is not None
    conversation, history = Conversation(prompt, encoder, History.template), list(prompt.messages)
    segments, trained, thoughts = 1, list[int](), 0
    for turn in data.draw(turns_of(name)):
        tokens, thought = sampled(name, encoder, turn), turn.thought
        ones = np.zeros(len(tokens), np.int32)
        generation = Generation(tokens, ones.astype(np.float32), "length" if turn.cut else "stop", ones)
        conversation.said(generation, "", Action(turn.text, "", [], thinking=thought))
        before = encoder.tokenizer.decode(conversation.trajectory.tokens)
        assert conversation.answered(Step(turn.answers), 10_000)

        said = {"role": "assistant", "content": turn.text} | ({"reasoning_content": thought} if thought else {})
        history += [said, *turn.answers]
        whole = encoder.tokenizer.apply_chat_template(
            history, tokenize=False, add_generation_prompt=True, **FAMILIES[name].variables
        )
        assert conversation.trajectory.tokens.tolist() == encoder.tokenizer(whole, add_special_tokens=False).input_ids
        begins = not whole.startswith(before)
        assert begins or not (thought and turn.answers[0]["role"] == "user")  # a question takes thoughts away
        segments, thoughts, trained = segments + begins, thoughts + bool(thought), trained + tokens.tolist()
    sample = conversation.trajectory.sample(prompt, 0)
    assert len(sample.segments) == segments
    assert sample.tokens[sample.loss_mask].tolist() == trained
    if name in WHOLE and not thoughts:
        assert segments == 1

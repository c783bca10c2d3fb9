"""Rendered turn by turn, a conversation has the tokens that the published chat templates give it as a whole."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rlscale.data.prompts.messages import Message
from rlscale.data.prompts.sources import RawPrompt
from rlscale.data.tokens.prompt_encoder import PromptEncoder
from tests.unit.data.tokens.published_families import FAMILIES, WHOLE, published_encoder


@pytest.fixture(scope="module")
def encoders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, PromptEncoder]:
    return {name: published_encoder(name, tmp_path_factory.mktemp(name)) for name in FAMILIES}


@pytest.mark.parametrize("name", FAMILIES)
def test_a_response_ends_at_the_token_at_which_the_model_ends_it(name: str, encoders: dict[str, PromptEncoder]) -> None:
    assert encoders[name].end_of_turn.text == FAMILIES[name].ends


# Words whose white space lies inside: templates strip the outside of messages, which no model wrote that way.
TEXTS = st.text(st.sampled_from('ab 12\n{}"é'), min_size=1, max_size=12).map(str.strip).filter(bool)
OBSERVED = st.lists(
    st.fixed_dictionaries({"role": st.sampled_from(["user", "tool"]), "content": TEXTS}), min_size=1, max_size=2
)
TURNS = st.lists(st.tuples(TEXTS, OBSERVED), min_size=1, max_size=3)


def played(
    encoder: PromptEncoder, before: str, turns: list[tuple[str, list[Message]]]
) -> tuple[np.ndarray, list[Message]]:
    """The tokens of a conversation as an episode puts them together, and its messages."""
    prompt = encoder.encode(RawPrompt(0, "0", "1+1"))
    assert prompt is not None
    parts, history = [prompt.tokens], list(prompt.messages)
    for text, new in turns:
        said = encoder.encode_response(before + text)
        if encoder.end_of_turn.text == "<|user|>" and new[0]["role"] == "tool":  # it stops at another opener
            said[-1] = encoder.tokenizer.convert_tokens_to_ids("<|observation|>")
        parts += [said, encoder.encode_observation(history, new, last=int(said[-1]))]
        history += [{"role": "assistant", "content": text}, *new]
    return np.concatenate(parts), history


@pytest.mark.parametrize("name", WHOLE)
@settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(turns=TURNS)
def test_turn_by_turn_is_the_whole(
    name: str, encoders: dict[str, PromptEncoder], turns: list[tuple[str, list[Message]]]
) -> None:
    encoder, published = encoders[name], FAMILIES[name]
    tokens, history = played(encoder, published.before, turns)
    text = encoder.tokenizer.apply_chat_template(
        history, tokenize=False, add_generation_prompt=True, **published.variables
    )
    assert encoder.tokenizer.decode(tokens) == text
    assert tokens.tolist() == encoder.tokenizer(text, add_special_tokens=False).input_ids


@pytest.mark.parametrize("name", WHOLE)
def test_a_turn_that_was_cut_off_is_closed_by_what_follows(name: str, encoders: dict[str, PromptEncoder]) -> None:
    encoder, before = encoders[name], FAMILIES[name].before
    prompt = encoder.encode(RawPrompt(0, "0", "1+1"))
    assert prompt is not None
    said, new = encoder.encode_response(before + "ab"), [{"role": "user", "content": "12"}]
    whole, _ = played(encoder, before, [("ab", new)])
    rest = encoder.encode_observation(prompt.messages, new, last=int(said[-2]))
    assert [*prompt.tokens, *said[:-1], *rest] == whole.tolist()


def test_a_model_that_stops_where_another_role_begins_is_not_told_twice(encoders: dict[str, PromptEncoder]) -> None:
    encoder = encoders["glm4_5"]
    user, tool = encoder.tokenizer.convert_tokens_to_ids(["<|user|>", "<|observation|>"])
    for last, first in ((user, "\n"), (tool, "<|user|>")):  # what it opened by mistake stays, since it was sampled
        seen = encoder.encode_observation(
            [{"role": "user", "content": "1+1"}], [{"role": "user", "content": "12"}], last=last
        )
        assert encoder.tokenizer.decode(seen).startswith(first)
    assert encoder.encode_response("2")[-1] == user


@pytest.mark.parametrize("name", WHOLE)
def test_sampled_tokens_stay_where_the_template_writes_their_text_although_its_tokens_are_others(
    name: str, encoders: dict[str, PromptEncoder]
) -> None:
    encoder, published = encoders[name], FAMILIES[name]
    new: list[Message] = [{"role": "user", "content": "12"}]
    whole, history = played(encoder, published.before, [("said", new)])
    prompt = encoder.encode(RawPrompt(0, "0", "1+1"))
    assert prompt is not None
    usual = encoder.encode_response(published.before + "said")
    odd = [token for byte in published.before + "said" for token in encoder.encode_response(byte)[:-1]]
    assert len(odd) >= len(usual)
    before = np.array([*prompt.tokens, *odd, usual[-1]], np.int32)
    rest, begins = encoder.encode_continuation(before, history)
    assert not begins
    assert [*prompt.tokens, *usual, *rest] == whole.tolist()


@pytest.mark.parametrize("role", ["user", "tool"])
def test_a_segment_begins_where_the_template_leaves_thinking_out(role: str, encoders: dict[str, PromptEncoder]) -> None:
    encoder = encoders["qwen3"]
    prompt = encoder.encode(RawPrompt(0, "0", "1+1"))
    assert prompt is not None
    said = "<think>\nhm\n</think>\n\n2"
    before = np.concatenate([prompt.tokens, encoder.encode_response(said)])
    messages: list[Message] = [
        *prompt.messages,
        {"role": "assistant", "content": said},
        {"role": role, "content": "12"},
    ]
    tokens, begins = encoder.encode_continuation(before, messages)
    assert begins == (role == "user")  # after a tool's answer the model goes on thinking
    text = encoder.tokenizer.decode(tokens)
    assert ("hm" in text) is False
    assert text.startswith("<|im_start|>user\n1+1<|im_end|>\n<|im_start|>assistant\n2<|im_end|>") == begins

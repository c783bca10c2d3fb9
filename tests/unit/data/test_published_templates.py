"""Rendered turn by turn, a conversation has the tokens that the published chat templates give it as a whole."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from rlscale.config.schema.data_config import DataConfig
from rlscale.data.messages import Message
from rlscale.data.prompt_encoder import PromptEncoder
from rlscale.data.sources import RawPrompt

TEMPLATES = Path(__file__).parent / "chat_templates"


@dataclass(frozen=True)
class Published:
    """What a model folder says besides its template."""

    eos: str
    added: tuple[str, ...]
    ends: str
    """The token that must be found to end a response."""
    stops: tuple[str, ...] = ()
    """Further tokens at which its generation config stops."""
    variables: dict[str, Any] = field(default_factory=dict)
    before: str = ""
    """What a response begins with, as the template writes it into the history."""
    bos: str | None = None


CHATML = ("<|im_start|>", "<|im_end|>", "<|endoftext|>", "<think>", "</think>")
DEEPSEEK = (
    "<｜begin▁of▁sentence｜>", "<｜User｜>", "<｜Assistant｜>", "<think>", "</think>", "<｜tool▁outputs▁begin｜>",
    "<｜tool▁outputs▁end｜>", "<｜tool▁output▁begin｜>", "<｜tool▁output▁end｜>",
)  # fmt: skip
LLAMA = ("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|eom_id|>")
GLM = ("[gMASK]", "<sop>", "<|system|>", "<|user|>", "<|assistant|>", "<|observation|>", "<think>", "</think>")
FAMILIES = {
    "qwen2_5": Published("<|im_end|>", CHATML, "<|im_end|>"),
    "qwen3": Published("<|im_end|>", CHATML, "<|im_end|>"),
    "qwen3_instruct": Published("<|im_end|>", CHATML, "<|im_end|>"),
    "llama3_1": Published("<|end_of_text|>", LLAMA, "<|eot_id|>", ("<|eom_id|>",), bos="<|begin_of_text|>"),
    "glm4_5": Published(
        "<|endoftext|>", GLM, "<|user|>", ("<|user|>", "<|observation|>"), {"enable_thinking": False}, before="\n"
    ),
    "deepseek_v3_1": Published("<｜end▁of▁sentence｜>", DEEPSEEK, "<｜end▁of▁sentence｜>", bos=DEEPSEEK[0]),
    "deepseek_r1": Published("<｜end▁of▁sentence｜>", DEEPSEEK, "<｜end▁of▁sentence｜>", bos=DEEPSEEK[0]),
    "plain": Published("</s>", ("<user>", "<assistant>", "<tool>"), "</s>"),
}
WHOLE = [name for name in FAMILIES if name != "deepseek_r1"]
"""Those that keep an answer in the history as it followed the prompt; R1's drops the <think> that prompts end in."""


_WORDS = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
"""How the tokenizers of all these families cut text into words: line breaks never join what follows them."""


def _tokenizer(published: Published) -> PreTrainedTokenizerFast:
    """Bytes with merges within words and over white space, and the model's own special tokens."""
    bpe = Tokenizer(models.BPE())
    split = pre_tokenizers.Split(Regex(_WORDS), "isolated")
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    bpe.decoder = decoders.ByteLevel()
    special = list(dict.fromkeys([published.eos, *published.added, *published.stops]))
    words = ['the user said hello to an assistant\n\n and it\n said  12 34 again {"a": 1}\n'] * 5
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=360, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    bpe.train_from_iterator(words, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token=published.eos, bos_token=published.bos)


@pytest.fixture(scope="module")
def encoders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, PromptEncoder]:
    made = {}
    for name, published in FAMILIES.items():
        folder = tmp_path_factory.mktemp(name)
        tokenizer = _tokenizer(published)
        tokenizer.chat_template = (TEMPLATES / f"{name}.jinja").read_text()
        tokenizer.save_pretrained(folder)
        stops = tokenizer.convert_tokens_to_ids([published.eos, *published.stops])
        (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": stops}))
        made[name] = PromptEncoder(folder, DataConfig(chat_template_kwargs=published.variables), 10_000)
    return made


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
@settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
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

"""What the policy is shown next, and where a segment of its trajectory begins."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from rlscale.config.schema.data_config import DataConfig
from rlscale.config.schema.rollout_config import History
from rlscale.data.prompts.sources import RawPrompt
from rlscale.data.tokens.character_tokenizer import character_tokenizer
from rlscale.data.tokens.prompt_encoder import PromptEncoder
from rlscale.envs.environment import Action, Call, Step
from rlscale.rollout.conversation import Conversation
from rlscale.rollout.engines.generation import Generation

FORGETS = (
    "{% for m in messages %}{% if m.role == 'assistant' %}<|im_start|>{{ m.content.split('!')[-1] }}<|im_end|>"
    "{% else %}{{ m.content }}{% endif %}{% endfor %}{% if add_generation_prompt %}<|im_start|>{% endif %}"
)
"""Leaves out of earlier turns what stands before an exclamation mark."""


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> PromptEncoder:
    folder = tmp_path_factory.mktemp("tokenizer")
    tokenizer = character_tokenizer("0123456789+-*=? !", 512)
    tokenizer.chat_template = FORGETS
    tokenizer.save_pretrained(folder)
    return PromptEncoder(folder, DataConfig(), 40)


def generated(encoder: PromptEncoder, said: str) -> Generation:
    tokens = encoder.encode_response(said)
    return Generation(tokens, np.zeros(len(tokens), np.float32), "stop", np.zeros(len(tokens), np.int32))


def talk(encoder: PromptEncoder, history: History, *turns: tuple[str, str], longest: int = 60) -> list[str]:
    """The text of every segment after these turns and answers, with what was sampled in brackets."""
    prompt = encoder.encode(RawPrompt(0, "0", "1+1="))
    assert prompt is not None
    conversation = Conversation(prompt, encoder, history)
    for said, answer in turns:
        tokens = encoder.encode_response(said)
        conversation.said(
            Generation(tokens, np.zeros(len(tokens), np.float32), "stop", np.zeros(len(tokens), np.int32)), said
        )
        conversation.answered(Step([{"role": "user", "content": answer}]), longest)
    sample, texts, at = conversation.trajectory.sample(prompt, 0), [], 0
    for length, _ in sample.segments:
        part = slice(at, at + length)
        words = [
            f"[{encoder.tokenizer.decode([token])}]" if mask else encoder.tokenizer.decode([token])
            for token, mask in zip(sample.tokens[part].tolist(), sample.loss_mask[part], strict=True)
        ]
        texts.append("".join(words).replace("][", ""))
        at += length
    return texts


THINKS = (("3!2", "-1="), ("0!1", "+1="))


def test_what_was_sampled_stays_with_the_history_as_it_was_sampled(encoder: PromptEncoder) -> None:
    (whole,) = talk(encoder, History.sampled, *THINKS)
    assert whole == "1+1=<|im_start|>[3!2<|im_end|>]-1=<|im_start|>[0!1<|im_end|>]+1=<|im_start|>"


def test_a_segment_begins_where_the_template_writes_a_turn_otherwise(encoder: PromptEncoder) -> None:
    assert talk(encoder, History.template, *THINKS) == [
        "1+1=<|im_start|>[3!2<|im_end|>]",
        "1+1=<|im_start|>2<|im_end|>-1=<|im_start|>[0!1<|im_end|>]",
        "1+1=<|im_start|>2<|im_end|>-1=<|im_start|>1<|im_end|>+1=<|im_start|>",
    ]


def test_without_a_difference_both_are_one_segment_and_the_same(encoder: PromptEncoder) -> None:
    plain = (("2", "-1="), ("1", "+1="))
    assert talk(encoder, History.template, *plain) == talk(encoder, History.sampled, *plain)


AS_DEPLOYED = (
    "{% for m in messages %}{% if m.role == 'assistant' %}<|im_start|>{{ m.content }}"
    "{% for call in m.tool_calls %}*{{ call.function.name }}{{ call.function.arguments.x }}{% endfor %}<|im_end|>"
    "{% else %}{{ m.content }}{% endif %}{% endfor %}{% if add_generation_prompt %}<|im_start|>{% endif %}"
)
"""Writes calls in its own way, and no thinking of earlier turns."""


@pytest.mark.parametrize("history", History)
def test_thinking_and_calls_are_given_to_the_template_as_when_it_is_deployed(
    encoder: PromptEncoder, history: History, tmp_path: Path
) -> None:
    """The policy has thought 3 and called the tool 7 with x = 5, as the parser read it."""
    encoder.tokenizer.save_pretrained(tmp_path)
    deployed = PromptEncoder(tmp_path, DataConfig(), 40)
    deployed.tokenizer.chat_template = AS_DEPLOYED
    prompt = deployed.encode(RawPrompt(0, "0", "1+1="))
    assert prompt is not None
    conversation = Conversation(prompt, deployed, history)
    said = generated(deployed, "3!2*7-5")
    conversation.said(said, "3!2*7-5", Action("2", "", [], thinking="3", calls=[Call("7", {"x": 5})]))
    assert conversation.answered(Step([{"role": "user", "content": "9="}]), 60)
    text = deployed.tokenizer.decode(conversation.trajectory.tokens)
    shown = "2*75" if history is History.template else "3!2*7-5"
    assert text == f"1+1=<|im_start|>{shown}<|im_end|>9=<|im_start|>"


@pytest.mark.parametrize(("longest", "fits"), [(8, True), (7, False)])
def test_an_answer_needs_room_for_a_turn_behind_it(encoder: PromptEncoder, longest: int, fits: bool) -> None:
    (whole,) = talk(encoder, History.sampled, ("2", "1-1+"), longest=longest)  # 2 tokens said, 5 shown, 1 to say
    assert whole.endswith("1-1+<|im_start|>") == fits
    assert whole.startswith("1+1=<|im_start|>[2<|im_end|>]")


def test_a_restart_keeps_the_system_prompt(encoder: PromptEncoder, tmp_path: Path) -> None:
    encoder.tokenizer.save_pretrained(tmp_path)
    strict = PromptEncoder(tmp_path, DataConfig(system_prompt="0 "), 40)
    prompt = strict.encode(RawPrompt(0, "0", "1+1="))
    assert prompt is not None
    conversation = Conversation(prompt, strict, History.template)
    for number in range(2):
        conversation.said(generated(strict, "2"), "2")
        assert conversation.answered(Step([{"role": "user", "content": "2+2="}], restart=number == 0), 60)
    first, second = conversation.trajectory.sample(prompt, 0).segments
    text = strict.tokenizer.decode(conversation.trajectory.tokens)
    assert text == "0 2+2=<|im_start|>2<|im_end|>2+2=<|im_start|>"
    assert (first.context, second.context) == (7, 7)

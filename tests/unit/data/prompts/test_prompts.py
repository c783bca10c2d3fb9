"""From raw prompts to tokens: templates, limits, supervised groups."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from rlscale.config.errors import UserError
from rlscale.config.schema.data_config import ArithmeticData, DataConfig
from rlscale.data.configured_source import build_source
from rlscale.data.prompt_queue import PromptQueue
from rlscale.data.prompts.sources import RawPrompt
from rlscale.data.supervised import SupervisedGroups
from rlscale.data.tokens.character_tokenizer import character_tokenizer
from rlscale.data.tokens.prompt_encoder import PromptEncoder


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    character_tokenizer("0123456789+=", 64).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def without_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("plain")
    plain = character_tokenizer("0123456789+=", 64)
    plain.chat_template = None
    plain.save_pretrained(folder)
    return folder


def test_the_prompt_goes_through_the_chat_template_with_the_system_prompt_first(tokenizer: Path) -> None:
    encoder = PromptEncoder(tokenizer, DataConfig(system_prompt="9"), 100)
    prompt = encoder.encode(RawPrompt(4, "a", "1+1=", label="2"))
    assert prompt is not None
    assert prompt.text == "9<|im_end|>1+1=<|im_start|>"
    assert prompt.tokens.tolist() == [13, 3, 5, 14, 5, 15, 2]
    assert (prompt.index, prompt.label, prompt.tokens.dtype) == (4, "2", np.int32)
    assert prompt.messages == [{"role": "system", "content": "9"}, {"role": "user", "content": "1+1="}]


def test_a_response_is_decoded_without_and_with_its_special_tokens(tokenizer: Path) -> None:
    decode = PromptEncoder(tokenizer, DataConfig(), 100).decode
    assert decode(np.array([12, 2, 1, 9, 3], np.int32)) == ("85", "8<|im_start|><|endoftext|>5<|im_end|>")


def test_messages_and_text_of_one_user_turn_give_the_same_tokens(tokenizer: Path) -> None:
    encoder = PromptEncoder(tokenizer, DataConfig(), 100)
    texts = "1+1=", [{"role": "user", "content": "1+1="}]
    first, second = (encoder.encode(RawPrompt(0, "a", text)) for text in texts)
    assert first is not None
    assert second is not None
    assert first.tokens.tolist() == second.tokens.tolist()


def test_without_the_chat_template_the_text_is_taken_as_it_is(without_template: Path) -> None:
    prompt = PromptEncoder(without_template, DataConfig(apply_chat_template=False), 100).encode(RawPrompt(0, "a", "1+"))
    assert prompt is not None
    assert prompt.tokens.tolist() == [5, 14]


def test_a_chat_template_that_leaves_out_what_the_user_says_is_refused(tokenizer: Path) -> None:
    with pytest.raises(UserError, match="leaves out what the user says: it writes '47='"):
        PromptEncoder(tokenizer, DataConfig(), 100, "47=")


def test_a_missing_chat_template_says_what_to_set(without_template: Path) -> None:
    with pytest.raises(UserError, match=r"set data.apply_chat_template=false, or give one as model.chat_template"):
        PromptEncoder(without_template, DataConfig(), 100)
    given = PromptEncoder(without_template, DataConfig(), 100, "{{ messages[0].content }}=")
    prompt = given.encode(RawPrompt(0, "a", "1"))
    assert prompt is not None
    assert prompt.text == "1="


@pytest.mark.parametrize(
    ("config", "raw", "message"),
    [
        (DataConfig(), "2*3", "prompt p contains characters that the tokenizer does not have: '2"),
        (DataConfig(apply_chat_template=False), [{"role": "user", "content": "1"}], "needs the chat template"),
        (DataConfig(apply_chat_template=False), "", "prompt p has no tokens"),
    ],
)
def test_an_unusable_prompt_is_refused(tokenizer: Path, config: DataConfig, raw: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        PromptEncoder(tokenizer, config, 100).encode(RawPrompt(0, "p", raw))


def test_prompts_over_the_limit_are_dropped_and_counted(tokenizer: Path) -> None:
    source = build_source(ArithmeticData(max_number=20, held_out_share=0.0, shuffle=False))
    queue = PromptQueue(source, PromptEncoder(tokenizer, ArithmeticData(), 5))
    prompts = queue.take(110)
    assert all(len(p.tokens) <= 5 for p in prompts)
    assert [p.id for p in prompts[:3]] == ["0+0", "0+1", "0+2"]
    # Of an epoch's 400 sums only the 100 of one-digit numbers fit: one whole epoch and ten more were taken.
    assert prompts[100].index == 400
    assert queue.dropped == 300


def test_when_no_prompt_fits_that_is_an_error(tokenizer: Path) -> None:
    queue = PromptQueue(build_source(ArithmeticData(max_number=9)), PromptEncoder(tokenizer, ArithmeticData(), 4))
    with pytest.raises(UserError, match=r"none of the \d+ prompts fits; raise rollout.max_prompt_tokens"):
        queue.take(1)


def make_supervised(tokenizer: Path, limit: int | None = None) -> SupervisedGroups:
    config = ArithmeticData(max_number=60)
    return SupervisedGroups(build_source(config), PromptEncoder(tokenizer, config, 100), 8, limit)


def test_a_supervised_group_trains_on_label_and_end_token_only(tokenizer: Path) -> None:
    queue = make_supervised(tokenizer)
    for group in queue.next_batch():
        (sample,) = group.samples
        label = [4 + int(digit) for digit in group.prompt.label]
        assert sample.tokens.tolist() == [*group.prompt.tokens.tolist(), *label, 3]
        assert sample.loss_mask.tolist() == [False] * len(group.prompt.tokens) + [True] * (len(label) + 1)
        assert (sample.rollout_logprobs == 0).all()


def test_a_resumed_supervised_feed_goes_on_with_the_next_batch(tokenizer: Path) -> None:
    queue, resumed = make_supervised(tokenizer), make_supervised(tokenizer)
    queue.next_batch()
    resumed.load_state_dict(queue.state_dict())
    assert [g.prompt.id for g in resumed.next_batch()] == [g.prompt.id for g in queue.next_batch()]


def test_labels_over_the_limit_are_left_out_and_counted(tokenizer: Path) -> None:
    queue = make_supervised(tokenizer, limit=3)
    assert all(len(g.prompt.label) <= 2 for _ in range(20) for g in queue.next_batch())
    assert queue.dropped > 0
    with pytest.raises(UserError, match=r"none of the \d+ prompts fits; raise rollout.max_response_tokens"):
        make_supervised(tokenizer, limit=1).next_batch()

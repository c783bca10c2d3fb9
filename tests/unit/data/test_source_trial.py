"""Trying a source before a run, and what happens to bad rows that only the run meets."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from rlscale.config.errors import UserError
from rlscale.config.schema.data_config import ArithmeticData, DataConfig, FileData
from rlscale.data.configured_source import build_source
from rlscale.data.prompt_queue import PromptQueue
from rlscale.data.prompts.bad_rows import BadPrompt
from rlscale.data.prompts.sources import PromptSource, RawPrompt
from rlscale.data.source_trial import try_prompts
from rlscale.data.supervised import ExampleEncoder, SupervisedGroups
from rlscale.data.tokens.character_tokenizer import character_tokenizer
from rlscale.data.tokens.prompt_encoder import PromptEncoder

PICKY = "{% if messages[0].content == '7+7=' %}{{ raise_exception('no sevens') }}{% endif %}{{ messages[0].content }}"


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    character_tokenizer("0123456789+=", 64).save_pretrained(folder)
    return folder


def source(folder: Path, prompts: list[Any], **keys: Any) -> PromptSource:
    file = folder / "rows.jsonl"
    rows = [{"prompt": prompt, "label": number} for number, prompt in enumerate(prompts)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return build_source(FileData(path=str(file), shuffle=False, **keys))


def encoder(tokenizer: Path, template: str | None = None, longest: int = 50) -> PromptEncoder:
    return PromptEncoder(tokenizer, DataConfig(), longest, template)


def test_every_row_that_template_or_tokenizer_refuses_is_named_before_the_run(tmp_path: Path, tokenizer: Path) -> None:
    prompts = [f"{number}+1=" for number in range(200)]
    prompts[150], prompts[3] = "7+7=", "3-1="
    with pytest.raises(UserError) as caught:
        try_prompts(source(tmp_path, prompts), encoder(tokenizer, PICKY), "data", None)
    file = tmp_path / "rows.jsonl"
    assert str(caught.value).splitlines() == [
        f"{file}:4: contains characters that the tokenizer does not have: '3-1=' (it lacks '-')",
        f"{file}:151: is refused by the chat template: no sevens",
        "data: 2 of 200 rows are bad; fix them, or leave them out with data.max_bad_rate=0.01",
    ]


def test_bad_rows_within_the_rate_are_left_out_and_said(tmp_path: Path, tokenizer: Path) -> None:
    prompts = ["3-1=", *(f"{number}+1=" for number in range(99))]
    (note,) = try_prompts(source(tmp_path, prompts), encoder(tokenizer), "data", 0.01)
    assert note.startswith("data: 1 of 100 rows is bad, left out; the first: ")
    assert "rows.jsonl:1: contains characters" in note


def test_a_label_on_which_the_check_itself_fails_is_named_too(tmp_path: Path, tokenizer: Path) -> None:
    def length(label: Any) -> None:
        len(label)

    with pytest.raises(UserError, match=r"rows.jsonl:1: has the label 0, on which check_label fails with TypeError"):
        try_prompts(source(tmp_path, ["1+1="]), encoder(tokenizer), "data", None, length)


def even(label: Any) -> None:
    if label % 2:
        raise ValueError("is odd")


def test_labels_that_the_reward_refuses_are_named_with_file_and_line(tmp_path: Path, tokenizer: Path) -> None:
    with pytest.raises(UserError, match=r"rows.jsonl:2: has the label 1: is odd\n") as caught:
        try_prompts(source(tmp_path, ["1+1="] * 6), encoder(tokenizer), "data", None, even)
    assert str(caught.value).endswith(
        "data: 3 of 6 rows are bad; fix them, or leave them out with data.max_bad_rate=0.5"
    )


def test_a_large_file_is_tried_in_rows_spread_over_it(tmp_path: Path, tokenizer: Path) -> None:
    prompts = ["1+1="] * 1000 + ["1-1="] * 1000
    with pytest.raises(UserError, match=r"rows.jsonl:1\d\d\d: contains .* \(and \d+ more like it\)\ndata: \d\d of 64"):
        try_prompts(source(tmp_path, prompts), encoder(tokenizer), "data", 0.1, seconds=0)
    (note,) = try_prompts(source(tmp_path, ["1+1="] * 2000), encoder(tokenizer), "data", None, seconds=0)
    assert note == "data: 64 of 2,000 prompts were tried before the run; the others are when used"


def test_prompts_that_are_too_long_are_said_and_when_all_are_refused(tmp_path: Path, tokenizer: Path) -> None:
    prompts = source(tmp_path, ["1+1=", "1111+1="])
    (note,) = try_prompts(prompts, encoder(tokenizer, longest=6), "data", None)
    assert note == "data: 1 of 2 prompts are too long and left out (rollout.max_prompt_tokens)"
    with pytest.raises(UserError, match=r"none of the 2 prompts fits; raise rollout.max_prompt_tokens"):
        try_prompts(prompts, encoder(tokenizer, longest=3), "data", None)


def test_a_trial_leaves_a_source_with_items_where_it_is(tmp_path: Path, tokenizer: Path) -> None:
    prompts = source(tmp_path, ["1+1=", "2+1="])
    try_prompts(prompts, encoder(tokenizer), "data", None)
    assert [prompt.index for prompt in prompts.next(2)] == [0, 1]


def test_a_bad_row_met_in_the_run_is_dropped_counted_and_logged(
    tmp_path: Path, tokenizer: Path, caplog: pytest.LogCaptureFixture
) -> None:
    prompts = [f"{number}+1=" for number in range(200)]
    prompts[2] = "3-1="
    queue = PromptQueue(source(tmp_path, prompts), encoder(tokenizer), max_bad_rate=None)
    with caplog.at_level(logging.WARNING):
        taken = queue.take(3)
    assert [prompt.id for prompt in taken] == ["0", "1", "3"]
    assert queue.bad == 1
    assert "rows.jsonl:3: contains characters that the tokenizer does not have" in caplog.text
    resumed = PromptQueue(source(tmp_path, prompts), encoder(tokenizer))
    resumed.load_state_dict(queue.state_dict())
    assert (resumed.bad, resumed.take(1)[0].id) == (1, "4")


def test_too_many_bad_rows_stop_the_run_with_file_and_line(tmp_path: Path, tokenizer: Path) -> None:
    prompts = [f"{number}{'-' if number % 10 == 5 else '+'}1=" for number in range(200)]
    queue = PromptQueue(source(tmp_path, prompts), encoder(tokenizer), max_bad_rate=0.02)
    with pytest.raises(UserError, match=r"rows.jsonl:6: .*\n(.*\n)*data: 5 of 200 rows are bad, more than .*rate=0.02"):
        queue.take(200)
    one_percent = PromptQueue(source(tmp_path, prompts), encoder(tokenizer))
    with pytest.raises(UserError, match=r"data: 3 of 200 rows are bad, more than data.max_bad_rate=0.01"):
        one_percent.take(200)


def test_a_bad_prompt_survives_the_way_between_processes() -> None:
    import pickle

    error = pickle.loads(pickle.dumps(BadPrompt("rows.jsonl:3:", "is empty")))
    assert (str(error), error.where) == ("rows.jsonl:3: is empty", "rows.jsonl:3:")


TURNS = [{"role": "user", "content": "1+1="}, {"role": "assistant", "content": "2"}]


def test_the_last_message_is_the_answer_to_learn_without_a_label(tmp_path: Path, tokenizer: Path) -> None:
    queue = SupervisedGroups(source(tmp_path, [TURNS], label_key=None), encoder(tokenizer), 1)
    ((group,),) = [queue.next_batch()]
    (sample,) = group.samples
    assert (group.prompt.text, sample.text) == ("1+1=<|im_start|>", "2")
    assert sample.tokens[sample.prompt_length :].tolist() == [6, 3]


@pytest.mark.parametrize(
    ("prompt", "label", "message"),
    [
        (TURNS, "2", "ends with an assistant message and has a label too; data.label_key=null learns it"),
        ("1+1=", None, "has no label to learn; set data.label_key"),
        (TURNS[:1], None, "ends with a 'user' message, so there is no answer to learn"),
        ("1+1=", {"a": 1}, "has a label that is an object; the answer to learn must be text or a number"),
        ("1+1=", True, "has a label that is true or false"),
        ("1+1=", " ", "has an empty answer"),
        ("1+1=", "x", "has an answer that contains characters that the tokenizer does not have"),
    ],
)
def test_an_example_without_one_answer_is_refused(tokenizer: Path, prompt: Any, label: Any, message: str) -> None:
    with pytest.raises(BadPrompt, match=f"rows.jsonl:9: {message}"):
        ExampleEncoder(encoder(tokenizer)).encode(RawPrompt(0, "0", prompt, label, place="rows.jsonl:9"))


@pytest.mark.parametrize(("label", "text"), [(58, "58"), (0.5, "0.5"), ("58", "58")])
def test_numbers_are_answers_too(tokenizer: Path, label: Any, text: str) -> None:
    folder_with_dot = PromptEncoder(tokenizer, DataConfig(), 50)
    raw = RawPrompt(0, "0", "1+1=", label)
    if "." in text:  # this tokenizer has no dot
        with pytest.raises(BadPrompt, match=r"'0\.5'"):
            ExampleEncoder(folder_with_dot).encode(raw)
        return
    group = ExampleEncoder(folder_with_dot).encode(raw)
    assert group is not None
    assert group.samples[0].text == text


THINKING = "{{ messages[0].content }}{% if enable_thinking is defined and not enable_thinking %}={% endif %}"


def test_variables_of_the_template_reach_it(tokenizer: Path) -> None:
    texts = []
    for given in ({}, {"enable_thinking": True}, {"enable_thinking": False}):
        prompt = PromptEncoder(tokenizer, DataConfig(chat_template_kwargs=given), 50, THINKING).encode(
            RawPrompt(0, "0", "1")
        )
        assert prompt is not None
        texts.append(prompt.text)
    assert texts == ["1", "1", "1="]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"enable_thinkin": False},
            "enable_thinkin: is not a variable of the chat template; did you mean enable_thinking?",
        ),
        ({"tokenize": True}, "tokenize: is not a variable of the chat template; it reads enable_thinking"),
        ({"messages": []}, "messages: is set for every prompt and cannot be given"),
    ],
)
def test_a_variable_that_the_template_does_not_read_is_refused(tokenizer: Path, given: Any, message: str) -> None:
    with pytest.raises(UserError) as caught:
        PromptEncoder(tokenizer, DataConfig(chat_template_kwargs=given), 50, THINKING, "eval.data")
    assert str(caught.value) == f"eval.data.chat_template_kwargs.{message}"


def test_a_generated_source_is_not_tried_in_whole(tokenizer: Path) -> None:
    class Counting(PromptEncoder):
        calls = 0

        def encode(self, raw: RawPrompt) -> Any:
            self.calls += 1
            return super().encode(raw)

    counting = Counting(tokenizer, DataConfig(), 50)
    assert try_prompts(build_source(ArithmeticData()), counting, "data", None) == []
    assert counting.calls == 256


def test_rows_left_out_when_the_file_is_opened_are_counted_too(tmp_path: Path, tokenizer: Path) -> None:
    prompts = source(tmp_path, ["1+1=", None, "2+1="], max_bad_rate=0.5)
    queue = PromptQueue(prompts, encoder(tokenizer))
    assert [prompt.id for prompt in queue.take(3)] == ["0", "2", "0"]
    assert queue.bad == 1

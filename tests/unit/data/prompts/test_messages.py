"""Chat messages: the same rows are read, or refused, in the same way from JSONL and from Parquet."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rlscale.config.errors import UserError
from rlscale.config.schema.data_config import DataConfig, FileData
from rlscale.data.configured_source import build_source
from rlscale.data.prompts.bad_rows import BadPrompt
from rlscale.data.prompts.messages import read_messages, split_answer
from rlscale.data.prompts.sources import RawPrompt
from rlscale.data.tokens.character_tokenizer import character_tokenizer
from rlscale.data.tokens.prompt_encoder import PromptEncoder

ROLES_AND_CONTENT = (
    "{% for m in messages %}[{{ m.role }}:{{ m.content }}{{ m.keys() | list | length }}]<|im_end|>{% endfor %}"
)


def user(content: Any) -> dict[str, Any]:
    return {"role": "user", "content": content}


def write(folder: Path, kind: str, prompts: list[Any]) -> str:
    """The prompts as a file of that kind, one row each."""
    rows = [{"prompt": prompt, "label": "1"} for prompt in prompts]
    file = folder / f"rows.{kind}"
    if kind == "jsonl":
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        pq.write_table(pa.Table.from_pylist(rows), file)
    return str(file)


@pytest.fixture(params=["jsonl", "parquet"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


READ = {
    "text": ([user("1+1")], [user("1+1")]),
    "keys that only other messages have": (
        [user("1"), {"role": "assistant", "content": "2", "name": "x"}, user("3")],
        [user("1"), {"role": "assistant", "content": "2", "name": "x"}, user("3")],
    ),
    "parts of text are joined": (
        [user([{"type": "text", "text": "1+"}, {"type": "text", "text": "1="}])],
        [user("1+1=")],
    ),
    "a null key of a part counts as absent": (
        [user([{"type": "text", "text": "1", "image": None}])],
        [user("1")],
    ),
    "tool calls stand in for content": (
        [user("1"), {"role": "assistant", "content": None, "tool_calls": [{"name": "f"}]}, user("2")],
        [user("1"), {"role": "assistant", "content": "", "tool_calls": [{"name": "f"}]}, user("2")],
    ),
    "one system message": (
        [{"role": "system", "content": "be brief"}, user("1")],
        [{"role": "system", "content": "be brief"}, user("1")],
    ),
    "a role that only the template knows": ([{"role": "critic", "content": "1"}], [{"role": "critic", "content": "1"}]),
}


@pytest.mark.parametrize("name", READ)
def test_messages_mean_the_same_in_both_formats(tmp_path: Path, kind: str, name: str) -> None:
    given, expected = READ[name]
    # The row beside it makes Arrow fill in keys, as a real data set does.
    beside = [{"role": "user", "content": given[0]["content"], "weight": 0.5}]
    source = build_source(FileData(path=write(tmp_path, kind, [given, beside]), shuffle=False))
    assert source.next(1)[0].prompt == expected


REFUSED = {
    "content that is null": ([user(None), user("x")], r"message 0 \(user\) has no content"),
    "a picture": (
        [user([{"type": "image", "text": "x"}])],
        r"message 0 \(user\) has a part of type 'image'; only",
    ),
    "an empty list as content": ([{"role": "user", "content": []}], r"message 0 \(user\) has an empty list as content"),
    "a number as content": ([{"role": "user", "content": 7}], r"has content that is a number; it must be text"),
    "a message without a role": ([{"role": None, "content": "x"}], "message 0 has no role"),
    "a role that is a number": ([{"role": 5, "content": "x"}], "message 0 has a role that is a number"),
    "another convention": ([{"from": "human", "value": "x"}], "message 0 has no role; ShareGPT's from and value"),
    "two system messages": (
        [{"role": "system", "content": "a"}, {"role": "system", "content": "b"}, user("x")],
        "messages 0 and 1 are both system messages; join them",
    ),
    "no messages": ([], "is an empty list of messages"),
    "nothing but blanks": ([user(" ")], "has no text in any of its messages"),
    "strings": (["x"], "message 0 is a string, not an object with role and content"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_messages_are_refused_with_file_and_line_in_both_formats(tmp_path: Path, kind: str, name: str) -> None:
    prompt, message = REFUSED[name]
    place = "rows.jsonl:1" if kind == "jsonl" else "rows.parquet: row 0"
    with pytest.raises(UserError, match=f"{place}: 'prompt' .*{message}"):
        build_source(FileData(path=write(tmp_path, kind, [prompt])))


def test_arrays_of_numpy_are_lists() -> None:
    given = np.array([{"role": "user", "content": np.array([{"type": "text", "text": np.str_("1")}])}], dtype=object)
    assert read_messages(given) == [user("1")]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    character_tokenizer("".join(map(chr, range(32, 127))), 256).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("content", ["1+1=", [{"type": "text", "text": "1+"}, {"type": "text", "text": "1="}]])
def test_a_template_never_sees_nulls_or_parts(tokenizer: Path, content: Any) -> None:
    encoder = PromptEncoder(tokenizer, DataConfig(), 100, ROLES_AND_CONTENT)
    prompt = encoder.encode(RawPrompt(0, "a", [{"role": "user", "content": content, "tool_calls": None}]))
    assert prompt is not None
    assert prompt.text == "[user:1+1=2]<|im_end|>"


@pytest.mark.parametrize(
    ("config", "prompt", "message"),
    [
        (DataConfig(), [user("1"), {"role": "assistant", "content": "2"}], "a: ends with an assistant message"),
        (
            DataConfig(system_prompt="s"),
            [{"role": "system", "content": "t"}, user("1")],
            "a: has a system message of its own, and a system_prompt is set too",
        ),
    ],
)
def test_what_the_policy_could_not_answer_is_refused(
    tokenizer: Path, config: DataConfig, prompt: list[dict[str, Any]], message: str
) -> None:
    with pytest.raises(BadPrompt, match=message):
        PromptEncoder(tokenizer, config, 100).encode(RawPrompt(0, "0", prompt, place="a"))


def test_the_last_message_of_an_example_is_its_answer() -> None:
    turns = [user("1"), {"role": "assistant", "content": "2"}]
    assert split_answer(turns) == ([user("1")], "2")
    with pytest.raises(ValueError, match="ends with a 'user' message, so there is no answer to learn"):
        split_answer([*turns, user("3")])

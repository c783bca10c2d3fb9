"""Tools that rows bring, and what a policy is shown between its turns, by chat templates in the manner of Qwen's."""

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
from rlscale.data.prompts.sources import RawPrompt
from rlscale.data.sample import Prompt
from rlscale.data.tokens.character_tokenizer import character_tokenizer
from rlscale.data.tokens.prompt_encoder import PromptEncoder

CHATML = (
    "{%- if tools %}{{- '<|im_start|>system\\n# Tools\\n<tools>' }}"
    "{%- for tool in tools %}{{- '\\n' }}{{- tool | tojson }}{%- endfor %}"
    "{{- '\\n</tools><|im_end|>\\n' }}{%- endif %}"
    "{%- for m in messages %}"
    "{%- if m.role == 'tool' %}"
    "{%- if loop.first or messages[loop.index0 - 1].role != 'tool' %}{{- '<|im_start|>user' }}{%- endif %}"
    "{{- '\\n<tool_response>\\n' + m.content + '\\n</tool_response>' }}"
    "{%- if loop.last or messages[loop.index0 + 1].role != 'tool' %}{{- '<|im_end|>\\n' }}{%- endif %}"
    "{%- else %}{{- '<|im_start|>' + m.role + '\\n' }}"
    "{%- if m.role == 'assistant' and loop.last %}{{- '<think>\\n\\n</think>\\n\\n' }}{%- endif %}"
    "{{- m.content + '<|im_end|>\\n' }}"
    "{%- endif %}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"
)
DEAF_TO_TOOLS = "{% for m in messages %}{{ m.content }}<|im_end|>{% endfor %}"
ADD = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}
END = 3


def encoder(folder: Path, template: str = CHATML, limit: int = 500, **data: Any) -> PromptEncoder:
    tokenizer = character_tokenizer("\n" + "".join(map(chr, range(32, 127))), 1000)
    tokenizer.chat_template = template
    tokenizer.save_pretrained(folder)
    return PromptEncoder(folder, DataConfig(**data), limit)


def rows(folder: Path, kind: str, *tools: Any) -> FileData:
    """A file of one row per value of tools."""
    values = [{"prompt": "1+1", "label": "2", "tools": value} for value in tools]
    file = folder / f"rows.{kind}"
    if kind == "jsonl":
        file.write_text("".join(json.dumps(value) + "\n" for value in values))
    else:
        pq.write_table(pa.Table.from_pylist(values), file)
    return FileData(path=str(file), shuffle=False)


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_the_template_tells_the_model_of_the_tools_of_its_row(tmp_path: Path, kind: str) -> None:
    with_tools, without = build_source(rows(tmp_path, kind, [ADD], None)).next(2)
    encoding = encoder(tmp_path)
    told, plain = encoding.encode(with_tools), encoding.encode(without)
    assert told is not None
    assert plain is not None
    assert told.text.startswith(f"<|im_start|>system\n# Tools\n<tools>\n{json.dumps(ADD)}\n</tools><|im_end|>\n")
    assert told.text.endswith(plain.text)
    assert list(told.tools) == [ADD]
    assert encoding.tokenizer.decode(told.tokens.tolist()) == told.text


def test_tools_may_be_written_as_text_since_columns_of_parquet_need_one_type(tmp_path: Path) -> None:
    (row,) = build_source(rows(tmp_path, "parquet", json.dumps([ADD]))).next(1)
    assert row.tools == [ADD]


@pytest.mark.parametrize(
    ("tools", "message"),
    [
        ("calculator", "'tools' is text that is not a list in JSON"),
        ({"add": 1}, "'tools' is an object, not a list of JSON schemas of functions; .* data.tools_key=null"),
        (["add"], "'tools' is a list, not a list of JSON schemas"),
    ],
)
def test_tools_of_another_form_are_refused(tmp_path: Path, tools: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        build_source(rows(tmp_path, "jsonl", tools))


def test_without_a_key_tools_are_information_for_the_reward_only(tmp_path: Path) -> None:
    data = rows(tmp_path, "jsonl", ["add"])
    data.tools_key = None
    (row,) = build_source(data).next(1)
    assert row.tools == []
    assert row.info == {"tools": ["add"]}


@pytest.mark.parametrize(
    ("template", "data", "message"),
    [
        (DEAF_TO_TOOLS, {}, "has tools, which the chat template does not render"),
        (CHATML, {"apply_chat_template": False}, "has tools, which need the chat template"),
    ],
)
def test_tools_that_nobody_would_tell_the_model_of_are_refused(
    tmp_path: Path, template: str, data: dict[str, Any], message: str
) -> None:
    with pytest.raises(BadPrompt, match=message):
        encoder(tmp_path, template, **data).encode(RawPrompt(0, "0", "1+1", tools=[ADD]))


def ask(encoding: PromptEncoder) -> Prompt:
    prompt = encoding.encode(RawPrompt(0, "0", "1+1", tools=[ADD]))
    assert prompt is not None
    return prompt


def test_turns_and_observations_one_after_another_are_what_the_template_writes_of_the_whole(tmp_path: Path) -> None:
    encoding = encoder(tmp_path)
    prompt = ask(encoding)
    first, second = {"role": "tool", "content": "2"}, {"role": "tool", "content": "two"}
    said = encoding.encode_response("add(1, 1)")
    seen = encoding.encode_observation(prompt.messages, [first, second], prompt.tools, last=int(said[-1]))
    again = encoding.encode_response("3?")
    history = [*prompt.messages, {"role": "assistant", "content": "add(1, 1)"}, first, second]
    more = encoding.encode_observation(history, [{"role": "user", "content": "no"}], prompt.tools, last=int(again[-1]))
    whole = encoding.tokenizer.apply_chat_template(
        [*history, {"role": "assistant", "content": "3?"}, {"role": "user", "content": "no"}],
        tools=[ADD], tokenize=False, add_generation_prompt=True,
    )  # fmt: skip
    assert encoding.tokenizer.decode(np.concatenate([prompt.tokens, said, seen, again, more]).tolist()) == whole


def test_a_turn_that_did_not_end_itself_is_ended_by_what_follows(tmp_path: Path) -> None:
    encoding = encoder(tmp_path)
    prompt = ask(encoding)
    told = [{"role": "user", "content": "go on"}]
    after_end = encoding.encode_observation(prompt.messages, told, last=END)
    after_cut = encoding.encode_observation(prompt.messages, told, last=40)
    assert after_cut.tolist() == [END, *after_end.tolist()]
    assert encoding.tokenizer.decode(after_end.tolist()) == (
        "\n<|im_start|>user\ngo on<|im_end|>\n<|im_start|>assistant\n"
    )


def test_without_the_template_an_observation_is_its_text(tmp_path: Path) -> None:
    encoding = encoder(tmp_path, apply_chat_template=False)
    seen = encoding.encode_observation([], [{"role": "user", "content": " = 2;"}], last=END)
    assert encoding.tokenizer.decode(seen.tolist()) == " = 2;"


def test_an_episode_may_begin_with_other_messages_and_further_tools(tmp_path: Path) -> None:
    encoding = encoder(tmp_path, system_prompt="be brief")
    prompt = ask(encoding)
    more = {**ADD, "type": "other"}
    told = encoding.encode_start(prompt, None, [more])
    assert list(told.tools) == [ADD, more]
    assert told.messages == prompt.messages
    other = encoding.encode_start(prompt, [{"role": "user", "content": "2+2"}], [])
    assert other.messages == [{"role": "system", "content": "be brief"}, {"role": "user", "content": "2+2"}]
    assert (other.index, other.label) == (prompt.index, prompt.label)
    with pytest.raises(ValueError, match=r"over rollout\.max_prompt_tokens=500"):
        encoding.encode_start(prompt, [{"role": "user", "content": "2" * 500}], [])
    assert encoding.dropped == 0

"""Data files: what every kind of odd row means, several files, nested keys, bad rows left out, another content."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rlscale.config.errors import UserError
from rlscale.config.schema.data_config import ArithmeticData, FileData
from rlscale.data.configured_source import build_source
from rlscale.data.prompts.prompt_files import FileSource

GOOD = '{"prompt": "1+1=", "label": 2}'


def labels(config: FileData) -> list[Any]:
    source = build_source(config)
    return [prompt.label for prompt in source.next(len(source))]


def file(folder: Path, content: bytes | str, name: str = "rows.jsonl") -> str:
    path = folder / name
    path.write_bytes(content.encode("utf-8", "surrogatepass") if isinstance(content, str) else content)
    return str(path)


def rows(*labels: Any, prompt: str = "p") -> str:
    return "".join(json.dumps({"prompt": f"{prompt}{label}", "label": label}) + "\n" for label in labels)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"\xef\xbb\xbf" + GOOD.encode() + b"\n", [2]),
        (b"\xef\xbb\xbf\n" + GOOD.encode() + b"\n", [2]),
        (f"{GOOD}\r\n{GOOD}\r\n".encode(), [2, 2]),
        (f"\n  \n{GOOD}\n\n".encode(), [2]),
        (GOOD.encode(), [2]),
        ('{"prompt": "a\u2028b\x85c", "label": "x"}\n'.encode(), ["x"]),
        (b'{"prompt": "p", "label": 123456789012345678901234567890}\n', [123456789012345678901234567890]),
        (b'{"prompt": "p", "label": {"answer": [1, 2.5, true]}, "score": NaN}\n', [{"answer": [1, 2.5, True]}]),
    ],
    ids=["BOM", "BOM alone", "CRLF", "blank lines", "no last newline", "other line ends", "huge integer", "types"],
)
def test_odd_but_legal_lines_are_rows(tmp_path: Path, content: bytes, expected: list[Any]) -> None:
    assert labels(FileData(path=file(tmp_path, content), shuffle=False)) == expected


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"prompt": "a", "label": 1, "label": 2}', "has the key 'label' twice"),
        ('{"prompt": "a", "label": NaN}', "'label' is nan, which is not a number"),
        ('{"prompt": "a", "label": null}', "'label' is null"),
        ('{"prompt": null, "label": 1}', "'prompt' is null"),
        ('{"prompt": " ", "label": 1}', "'prompt' is empty"),
        (
            '{"prompt": "[{\\"role\\": \\"user\\", \\"content\\": \\"hi\\"}]", "label": 1}',
            "'prompt' is a list of messages written as text; write the list itself",
        ),
        (GOOD + " extra", "not valid JSON"),
        ('{"prompt": "a", "lab', "not valid JSON"),
        ('{"prompt": "a", "label": ' + "9" * 5000 + "}", "JSON that cannot be read .*4300 digits"),
        ('{"prompt": ' + "[" * 100_000, "JSON that cannot be read .nested too deeply"),
        ('{"prompt": "\\ud800", "label": 1}', r"'prompt' contains half a character .\\ud800"),
        ('{"prompt": "a", "label": "\\udfff"}', r"'label' contains half a character .\\udfff"),
        ('{"prompt": "a", "label": 1, "x": {"\\ud800": 1}}', r"'x' contains half a character .\\ud800"),
        ('{"prompt": "\ud800", "label": 1}', "not UTF-8"),
        ("{'prompt': 'a'}", "not valid JSON"),
        ('"text"', "is a string, not a JSON object"),
    ],
)
def test_a_bad_line_is_named_and_can_be_left_out(tmp_path: Path, line: str, message: str) -> None:
    path = file(tmp_path, f"{GOOD}\n{line}\n{GOOD}\n")
    with pytest.raises(UserError, match=rf"^[^\n]*rows.jsonl:2: {message}") as caught:
        build_source(FileData(path=path))
    how = "data: 1 of 3 rows is bad; fix it, or leave it out with data.max_bad_rate=0.34"
    assert str(caught.value).splitlines()[1:] == [how]
    source = FileSource(FileData(path=path, max_bad_rate=0.34))
    assert (len(source), source.bad.count) == (2, 1)
    with pytest.raises(UserError, match=r"1 of 3 rows is bad, more than data.max_bad_rate=0.1; fix it"):
        FileSource(FileData(path=path, max_bad_rate=0.1))


def test_the_same_mistake_in_every_row_is_said_once(tmp_path: Path) -> None:
    path = file(tmp_path, '{"question": "a", "label": 1}\n' * 40)
    with pytest.raises(UserError) as caught:
        build_source(FileData(path=path))
    first, second = str(caught.value).splitlines()
    assert first.endswith(
        "rows.jsonl:1: no key 'prompt', only label, question; set data.prompt_key (and 39 more like it)"
    )
    assert second == "data: 40 of 40 rows are bad; fix them"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("rows.jsonl", gzip.compress(GOOD.encode(), mtime=0), "is a gzip file, not text with one JSON object per line"),
        ("rows.jsonl.gz", gzip.compress(GOOD.encode(), mtime=0), r"must end in .jsonl or .parquet; unpack it first"),
        ("rows.json", GOOD.encode(), r"must end in .jsonl or .parquet; .jsonl is one JSON object per line"),
        ("rows.jsonl", GOOD.encode("utf-16"), "is UTF-16, not text with one JSON object per line"),
        ("rows.parquet", GOOD.encode(), "not a readable Parquet file"),
        ("rows.jsonl", b" \n\n", "no prompts, it is empty"),
    ],
)
def test_a_file_of_another_kind_is_refused_as_a_whole(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    with pytest.raises(UserError, match=message):
        build_source(FileData(path=file(tmp_path, content, name)))


def test_several_files_are_one_source_each_with_its_own_slice(tmp_path: Path) -> None:
    first, second = file(tmp_path, rows(0, 1, 2, 3)), str(tmp_path / "more.parquet")
    pq.write_table(pa.Table.from_pylist([{"prompt": "q", "label": label} for label in (10, 11)]), second)
    source = build_source(FileData(path=[f"{first}@1:3", f"{second}@[1:]"], shuffle=False))
    prompts = source.next(3)
    assert [(p.id, p.label) for p in prompts] == [("rows.jsonl:1", 1), ("rows.jsonl:2", 2), ("more.parquet:1", 11)]
    assert [p.place for p in prompts] == [f"{first}:2", f"{first}:3", f"{second}: row 1"]


@pytest.mark.parametrize("path", [[], [3], 5, " ", None, {"a": 1}])
def test_a_path_that_is_none_is_refused(path: Any) -> None:
    with pytest.raises(UserError, match=r"data.path=.*: must be a path or a list of paths"):
        build_source(FileData(path=path))


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_a_label_deep_in_the_row_is_found(tmp_path: Path, kind: str) -> None:
    row = {"prompt": "p", "reward_model": {"truth": "4", "style": "rule"}, "answers": {"text": ["a", "b"]}}
    path = str(tmp_path / f"rows.{kind}")
    if kind == "jsonl":
        file(tmp_path, json.dumps(row))
    else:
        pq.write_table(pa.Table.from_pylist([row]), path)
    (prompt,) = build_source(FileData(path=path, label_key="reward_model.truth")).next(1)
    assert (prompt.label, prompt.info["reward_model"]) == ("4", row["reward_model"])
    assert labels(FileData(path=path, label_key="answers.text.1")) == ["b"]
    with pytest.raises(UserError, match=r"no key 'reward_model.answer', only style, truth; set data.label_key"):
        build_source(FileData(path=path, label_key="reward_model.answer"))


def test_a_key_that_holds_a_dot_itself_wins(tmp_path: Path) -> None:
    path = file(tmp_path, '{"prompt": "p", "a.b": 1, "a": {"b": 2}}')
    assert labels(FileData(path=path, label_key="a.b")) == [1]


@pytest.mark.parametrize("label", ["7", 7, 7.5, True, [1, "a"], {"a": [1]}])
@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_labels_keep_their_type(tmp_path: Path, kind: str, label: Any) -> None:
    if kind == "parquet" and label == [1, "a"]:
        label = [1, 2]  # a column holds one type
    path = str(tmp_path / f"rows.{kind}")
    if kind == "jsonl":
        file(tmp_path, json.dumps({"prompt": "p", "label": label}))
    else:
        pq.write_table(pa.Table.from_pylist([{"prompt": "p", "label": label}]), path)
    (found,) = labels(FileData(path=path))
    assert (found, type(found)) == (label, type(label))


def test_a_label_that_json_does_not_hold_is_refused(tmp_path: Path) -> None:
    path = str(tmp_path / "rows.parquet")
    pq.write_table(pa.table({"prompt": ["p"], "label": [b"\xff"]}), path)
    with pytest.raises(UserError, match=r"rows.parquet: row 0: 'label' is of type bytes; write it as text"):
        build_source(FileData(path=path))


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_a_run_is_not_resumed_with_other_rows(tmp_path: Path, kind: str) -> None:
    def source(*labels: int) -> Any:
        path = str(tmp_path / f"rows.{kind}")
        if kind == "jsonl":
            file(tmp_path, rows(*labels))
        else:
            pq.write_table(pa.Table.from_pylist([{"prompt": "p", "label": label} for label in labels]), path)
        return build_source(FileData(path=path))

    state = json.loads(json.dumps(source(1, 2, 3).state_dict()))
    source(1, 2, 3).load_state_dict(state)
    with pytest.raises(UserError, match=r"data: its 3 prompts are not the ones that the checkpoint was made with"):
        source(1, 2, 4).load_state_dict(state)


def test_another_split_of_the_sums_is_other_content() -> None:
    state = build_source(ArithmeticData(size=50, seed=1)).state_dict()
    with pytest.raises(UserError, match="its 50 prompts are not the ones"):
        build_source(ArithmeticData(size=50, seed=2)).load_state_dict(state)


def test_prompts_that_two_files_share_are_counted_whatever_their_form(tmp_path: Path) -> None:
    train = file(tmp_path, rows(1, 2, 3, 4), "train.jsonl")
    system, user = {"role": "system", "content": "be brief"}, {"role": "user", "content": " p2\n"}
    lines = [{"prompt": [system, user], "label": "x"}, {"prompt": "p3", "label": "y"}, {"prompt": "new", "label": "z"}]
    held = file(tmp_path, "".join(json.dumps(line) + "\n" for line in lines), "eval.jsonl")
    asked = [prompt.prompt for prompt in build_source(FileData(path=held)).next(3)]
    assert FileSource(FileData(path=train)).holds(asked) == 2

"""Whatever a text holds, every file that a run writes gives it back."""

from __future__ import annotations

import html
import json
import re
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from rlscale.config.composition.compose import compose
from rlscale.config.composition.written_recipe import write_recipe
from rlscale.config.composition.yaml_text import to_yaml
from rlscale.observe import jsonl
from rlscale.observe.formatting import visible
from rlscale.observe.metrics import MetricsLog, read_metrics
from rlscale.observe.progress import Progress
from rlscale.observe.report import write_report
from rlscale.observe.samples import SamplesLog, ShownSample, read_samples
from rlscale.observe.summary import Summary
from rlscale.observe.timeline import Timeline, read_timeline
from rlscale.run.disk.run_folder import RunFolder, read_mark, write_json

SPECIAL = (
    "\0\a\t\n\v\f\r\x1b\x1c\x1d\x1e\x85\x9b\u2028\u2029\u202e\ufeff\uffff\ud800\udbff\udc00\udfff\U0010ffff😀éß中\\\"'"
)
PIECES = [
    *SPECIAL,
    "\r\n",
    "${",
    "${a}",
    "\\${",
    "</pre><script>",
    "&lt;",
    "&#0;",
    "- ",
    ": ",
    " #",
    "null",
    "1e3",
    "%",
]

texts = st.lists(st.sampled_from(PIECES) | st.text(st.characters(codec=None), max_size=4), max_size=12).map("".join)
every_text = settings(max_examples=30, derandomize=True, database=None, deadline=None)


def joined(text: str) -> str:
    """The text as JSON holds it: a high surrogate before a low one is the character of the two."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")


@every_text
@given(texts, texts)
@example("a\u2028b\x85c\vd\fe", "\ud800")
@example("x" * 1_000_000, "\u2028" * 10_000)
def test_no_sample_is_lost_whatever_its_text_holds(prompt: str, answer: str) -> None:
    label = {answer: [prompt, {"deep": answer}], "n": 3}
    with TemporaryDirectory() as folder:
        log = SamplesLog(Path(folder))
        log.log([ShownSample(phase, prompt, answer, label, 0.5, index=7) for phase in ("before", "after")])
        log.close()
        before, after = read_samples(Path(folder))
    assert (before.prompt, after.prompt) == (joined(prompt), joined(prompt))
    assert (before.response, after.response) == (joined(answer), joined(answer))
    assert after.label == {joined(answer): [joined(prompt), {"deep": joined(answer)}], "n": 3}


@every_text
@given(texts, texts)
def test_every_json_file_of_a_run_gives_its_texts_back(name: str, text: str) -> None:
    with TemporaryDirectory() as temporary:
        folder = Path(temporary)
        log, timeline = MetricsLog(folder), Timeline(folder)
        log.log(1, {f"_{name}": text})
        timeline.add(name, text, 1.0, 2.0)
        log.close()
        timeline.close()
        Summary(status=text, recipe=name, message=text).write(folder)
        RunFolder(folder).mark(recipe=name, state=text)
        write_json(folder / "sweep.json", {"runs": [{"overrides": [name, text], "output": text}]})
        (row,), (span,), summary, mark = (
            read_metrics(folder),
            read_timeline(folder),
            Summary.read(folder),
            read_mark(folder),
        )
        sweep = json.loads((folder / "sweep.json").read_bytes())
    name, text = joined(name), joined(text)
    assert row[f"_{name}"] == text
    assert (span.name, span.lane) == (name, text)
    assert summary is not None
    assert (summary.status, summary.recipe, summary.message) == (text, name, text)
    assert mark == {"recipe": name, "state": text}
    assert sweep == {"runs": [{"overrides": [name, text], "output": text}]}


@every_text
@given(texts)
def test_no_line_of_a_file_is_broken_by_what_another_program_takes_for_its_end(text: str) -> None:
    line = jsonl.to_line({"text": text})
    assert len(line.splitlines()) == 1
    assert line.encode() == line.encode("utf-8", "strict")


@every_text
@given(texts, texts)
def test_yaml_gives_every_text_back_as_a_value(key: str, text: str) -> None:
    values = {"k" + key: text, "list": [text, {"inner": text + key}], "empty": {}, "number": "1e3", "yes": "on"}
    written = to_yaml(values)
    written.encode()
    assert OmegaConf.to_container(OmegaConf.create(written), resolve=True) == values


def test_a_recipe_with_strange_values_runs_again_with_the_same(tmp_path: Path) -> None:
    config = compose(None, ["data=custom", "data.source._target_=a.B"])
    strange: dict[str, Any] = {"texts": PIECES, "all": "".join(PIECES), "interpolations": "\\${a} \\\\${b} ${c"}
    config.data.source.update(strange)  # type: ignore[attr-defined] # data=custom
    write_recipe(config, tmp_path)
    again = compose(str(tmp_path / "recipe.yaml"), [])
    assert {name: again.data.source[name] for name in strange} == strange  # type: ignore[attr-defined]
    resolved = OmegaConf.to_container(OmegaConf.load(tmp_path / "resolved.yaml"), resolve=True)
    assert {name: resolved["data"]["source"][name] for name in strange} == strange  # type: ignore[call-overload,index]


@every_text
@given(texts)
@example("\ud800 is not a character \0")
def test_the_report_holds_every_text_with_escapes_for_what_no_page_can(text: str) -> None:
    with TemporaryDirectory() as temporary:
        folder = Path(temporary)
        log = SamplesLog(folder)
        log.log([ShownSample(phase, text, f"answer {text}", text, 0.0) for phase in ("before", "training")])
        log.close()
        Summary(status="failed", recipe=text, message=text).write(folder)
        (folder / "resolved.yaml").write_text(to_yaml({"model": text}), encoding="utf-8")
        page = write_report(folder).read_bytes().decode()
    shown = visible(text)
    assert html.unescape("".join(re.findall(r'<p class="message">(.*?)</p>', page, re.DOTALL))) == shown
    cells = [html.unescape(cell) for cell in re.findall(r"<pre>(.*?)</pre>", page, re.DOTALL)]
    assert f"answer {shown}" in cells
    assert page.count("<script") == 1
    assert not re.search("[\0\x1b\x85\u2028\u202e]", page)


@every_text
@given(texts)
def test_a_note_reaches_the_terminal_and_cannot_steer_it(text: str) -> None:
    with TemporaryDirectory() as folder, open(Path(folder) / "log", "w", encoding="utf-8", newline="") as file:
        Progress("arithmetic", 1, "plain", file).note(text)
        file.flush()
        written = (Path(folder) / "log").read_bytes().decode()
    assert written.endswith(f"] {visible(text)}\n")
    assert not re.search("[\0-\x08\x0b-\x1f\x7f-\x9f]", written)


@pytest.mark.parametrize(
    ("label", "expected"),
    [
        pytest.param(10**5000, hex(10**5000), id="5001 digits"),
        (float("nan"), None),
        ((1, (2,)), [1, [2]]),
        (b"\xff", "b'\\xff'"),
        ({1: "a"}, {"1": "a"}),
    ],
)
def test_labels_that_json_has_no_word_for_are_written_as_something_near(
    tmp_path: Path, label: Any, expected: Any
) -> None:
    SamplesLog(tmp_path).log([ShownSample("after", "1+1", "2", label, 1.0)])
    (sample,) = read_samples(tmp_path)
    assert sample.label == expected


def test_a_label_that_contains_itself_does_not_end_the_run(tmp_path: Path) -> None:
    label: list[Any] = [1]
    label.append(label)
    SamplesLog(tmp_path).log([ShownSample("after", "1+1", "2", label, 1.0)])
    assert "…" in (tmp_path / "samples.jsonl").read_text()
    assert len(read_samples(tmp_path)) == 1

"""The recipe for GSM8K: rows of that shape are read, rendered and scored as they are."""

from __future__ import annotations

import json
import string
from pathlib import Path

import pytest

from rlscale.config.checks import check
from rlscale.config.composition.compose import compose
from rlscale.config.composition.overrides import quote
from rlscale.config.errors import ConfigError
from rlscale.config.schema import Config
from rlscale.config.schema.data_config import FileData
from rlscale.data.prompts.prompt_files import FileSource
from rlscale.envs.rewards.math import MathAnswer
from rlscale.run.preflight import preflight

ROWS = [
    (
        "A baker sells 48 rolls on Monday and half as many on Tuesday. How many rolls are that?",
        "On Tuesday he sells 48/2 = <<48/2=24>>24 rolls.\nTogether that is 48+24 = <<48+24=72>>72 rolls.\n#### 72",
        "72",
    ),
    (
        "A bicycle costs $1,350 and its price falls by 20%. What does it cost then?",
        "It falls by $1,350*.2=$<<1350*.2=270>>270.\nSo it costs $1,350-$270=$<<1350-270=1080>>1,080.\n#### 1,080",
        "\\$1080.00",
    ),
    ("It is 5 degrees and gets 12 degrees colder. How cold is it?", "5-12=<<5-12=-7>>-7\n#### -7", "-7"),
]
"""Question, answer with the calculator's annotations, and the number as a model may write it."""


def write(file: Path, rows: list[tuple[str, str, str]]) -> Path:
    lines = [json.dumps({"question": question, "answer": answer}) for question, answer, _ in rows]
    file.write_text("\n".join(lines) + "\n")
    return file


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    train, test = write(tmp_path / "train.jsonl", ROWS), write(tmp_path / "test.jsonl", ROWS[:1])
    test.write_text(test.read_text().replace("rolls", "cakes"))
    return [f"data.path={train}", f"eval.data.path={test}"]


def on_the_cpu(files: list[str], scratch: Path) -> Config:
    """The recipe with a model that is made here, of one token per character."""
    characters = quote(f"model.create.characters={string.printable.strip()} \n")
    assert characters is not None
    small = ["rollout.max_response_tokens=32", "eval.max_response_tokens=32", "rollout.max_prompt_tokens=400"]
    places = ["cluster=local_cpu", "rollout.engines=1", f"run.scratch={scratch}"]
    return compose("gsm8k", [*files, "model=tiny_qwen3", characters, "~data.chat_template_kwargs", *small, *places])


def test_the_recipe_asks_for_the_files_and_for_nothing_else(files: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        compose("gsm8k")
    assert [line.partition(":")[0] for line in caught.value.problems] == ["data.path", "eval.data.path"]
    (note,) = check(compose("gsm8k", files))
    assert note.startswith("model.path=Qwen/Qwen3-0.6B is not downloaded yet")


def test_training_and_evaluation_read_the_same_keys_and_prompt(files: list[str]) -> None:
    config = compose("gsm8k", [*files, "data.prompt_key=problem", "data.system_prompt=Think."])
    assert isinstance(config.eval.data, FileData)
    for data in (config.data, config.eval.data):
        assert isinstance(data, FileData)
        assert (data.prompt_key, data.label_key, data.system_prompt) == ("problem", "answer", "Think.")


def test_rows_of_its_shape_pass_every_check_before_a_run(files: list[str], tmp_path: Path) -> None:
    (note,) = preflight(on_the_cpu(files, tmp_path / "scratch"))
    assert note.startswith("end of turn: ")


def test_a_row_whose_answer_says_no_number_is_refused_by_its_line(files: list[str], tmp_path: Path) -> None:
    write(tmp_path / "train.jsonl", [*ROWS, ("How many?", "#### \\frac{", "")])
    with pytest.raises(ConfigError, match=r"train\.jsonl:4"):
        preflight(on_the_cpu(files, tmp_path / "scratch"))


def test_the_reward_compares_with_what_stands_behind_the_hashes(files: list[str]) -> None:
    data = compose("gsm8k", [*files, "data.shuffle=false"]).data
    assert isinstance(data, FileData)
    source, reward = FileSource(data), MathAnswer()
    for number, (question, _, answer) in enumerate(ROWS):
        prompt = source.item(number, number)
        assert prompt.prompt == question
        reward.check_label(prompt.label)
        assert reward(f"So it is \\boxed{{{answer}}}.", prompt.label, prompt.info) == 1.0
        assert reward("So it is \\boxed{24}.", prompt.label, prompt.info) == 0.0

"""Values with special characters: taken where they can only be a text, else with the form that works."""

from __future__ import annotations

import shlex

import pytest

from rlscale.config.composition.compose import compose
from rlscale.config.composition.overrides import parse_one


@pytest.mark.parametrize(
    "value", ["~/runs", "Grüße", "数学", "😀", "a!b", "a;b", "a|b", "#x", "`x`", "a & b", "ends in?", "<think>"]
)
def test_a_value_that_can_only_be_a_text_is_that_text(value: str) -> None:
    problems: list[str] = []
    override = parse_one(f"data.system_prompt={value}", problems)
    assert problems == []
    assert override is not None
    assert override.value() == value


@pytest.mark.parametrize(
    "value",
    [
        "problems.jsonl@[100:200]",
        "What's up",
        "a=b",
        "(a)",
        "{a",
        "~/a,~/b",
        'say "yes"!',
        "\\frac{1}{2}",
        "both ' and \"",
        "[a",
    ],
)
def test_the_hint_for_any_other_value_works_as_it_is_printed(value: str) -> None:
    problems: list[str] = []
    assert parse_one(f"data.system_prompt={value}", problems) is None
    (line,) = problems
    printed = line.partition("if it is one text, write ")[2]
    (word,) = shlex.split(printed)  # as a shell hands it on
    override = parse_one(word, [])
    assert override is not None
    assert override.value() == value


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("ü=3", "ü=3: cannot be read, because of its special characters"),
        ("run.root=\udcff", "run.root=\\udcff: cannot be read, because of its special characters"),
        ("run.root=a\nb", "run.root=a\\nb: cannot be read, because of its special characters"),
        ("~~run.root", "~~run.root: cannot be read (options are written key=value)"),
    ],
)
def test_what_cannot_be_read_is_one_printable_line(text: str, says: str) -> None:
    problems: list[str] = []
    assert parse_one(text, problems) is None
    assert problems == [says]


def test_a_home_folder_on_the_command_line_is_the_home_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/user")
    config = compose(None, ["run.root=~/runs", "run.output=~/runs/one", "run.scratch=~/scratch", "model.init=~/m"])
    run = config.run
    assert (run.root, run.output, run.scratch) == ("/home/user/runs", "/home/user/runs/one", "/home/user/scratch")
    assert config.model.init == "/home/user/m"


@pytest.mark.parametrize("text", ["=3", "=", "~"])
def test_an_override_without_a_key_is_said_to_have_none(text: str, problems) -> None:  # type: ignore[no-untyped-def]
    assert problems(text) == [f"{text}: names no key; options are written key=value"]

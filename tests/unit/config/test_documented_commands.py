"""Every command line in README and docs is one that works as it is typed into a shell."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from rlscale.cli import COMMANDS, read_arguments
from rlscale.config.checks import check
from rlscale.config.compose import compose
from rlscale.config.sweep_expansion import expand

_ROOT = Path(__file__).parents[3]
_PAGES = [_ROOT / "README.md", *sorted((_ROOT / "docs").glob("*.md"))]
_START = "python -m rlscale"
_SYNOPSIS = re.compile(r"\[\w+=|=\.\.\.|\b[A-Z]{4,}\b")
"""Marks of a line that shows what may be written and is not meant to be typed."""


def documented() -> list[tuple[str, list[str]]]:
    """(page and line, arguments) of every command: lines of code, continued ones whole, and commands inside a text."""
    found = []
    for page in _PAGES:
        text = page.read_text(encoding="utf-8")
        for match in re.finditer(rf"(?m)^[ \t]*{_START}((?:[^\n\\]|\\(?!\n)|\\\n)*)$|`{_START}([^`]*)`", text):
            command = match[1] if match[1] is not None else match[2]
            if not _SYNOPSIS.search(command):
                where = f"{page.name}:{text.count(chr(10), 0, match.start()) + 1}"
                found.append((where, shlex.split(command.replace("\\\n", " "), comments=True)))
    return found


COMMANDS_OF_THE_DOCS = documented()


def test_the_commands_of_the_docs_are_found() -> None:
    pages = {where.partition(":")[0] for where, _ in COMMANDS_OF_THE_DOCS}
    assert {"README.md", "configuration.md", "data.md", "algorithms.md", "hooks.md"} <= pages
    assert len(COMMANDS_OF_THE_DOCS) > 25


@pytest.fixture
def files_of_the_docs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The files that the commands name."""
    monkeypatch.chdir(tmp_path)
    Path("my").mkdir()
    Path("my/recipe.yaml").write_text("defaults: [arithmetic, _self_]\n")
    Path("recipe.yaml").write_text("defaults: [arithmetic, {data: jsonl}, _self_]\ndata: {path: train.jsonl}\n")
    Path("my/first.yaml").write_text("defaults: [arithmetic_sft, _self_]\n")


@pytest.mark.usefixtures("files_of_the_docs")
@pytest.mark.parametrize(("where", "argv"), COMMANDS_OF_THE_DOCS, ids=[where for where, _ in COMMANDS_OF_THE_DOCS])
def test_a_documented_command_composes_and_passes_the_checks(where: str, argv: list[str]) -> None:
    if argv and argv[0] in COMMANDS:
        assert all("=" in text or re.fullmatch(r"(--)?[\w.]+", text) for text in argv[1:])
        return
    arguments = read_arguments(argv)
    if arguments.options.help:
        return
    runs = expand(arguments.overrides) if arguments.options.multirun else [arguments.overrides]
    for overrides in runs:
        check(compose(arguments.recipe, overrides))

"""Every command line in README and docs is one that works as it is typed into a shell."""

from __future__ import annotations

import re
import shlex
import shutil
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from rlscale.cli import COMMANDS, read_arguments
from rlscale.config.checks import check
from rlscale.config.composition.compose import compose
from rlscale.config.composition.sweep_expansion import expand

_ROOT = Path(__file__).parents[3]
_PAGES = [_ROOT / "README.md", *sorted((_ROOT / "docs").glob("*.md"))]
_START = "python -m rlscale"
_SYNOPSIS = re.compile(r"\[\w+=|=\.\.\.|\b[A-Z]{4,}\b")
"""Marks of a line that shows what may be written and is not meant to be typed."""


_LINE = re.compile(
    rf"(?m)^[ \t]*(?:\(cd (?P<folder>\S+) && {_START}(?P<inside>[^)\n]*)\)[^\n]*"
    rf"|(?:\$ |PYTHONPATH=\. )?{_START}(?P<line>(?:[^\n\\]|\\(?!\n)|\\\n)*))$|`{_START}(?P<text>[^`]*)`"
)
_MODULE = re.compile(r"(?ms)^```python\n# (?P<name>my_\w+\.py)\n(?P<code>.*?)^```$")


class Documented(NamedTuple):
    """A command of a page."""

    where: str
    """Page and line."""
    arguments: list[str]
    folder: str
    """That it is typed in, from the root of the repository; empty for any."""
    modules: dict[str, str]
    """Files of Python that the page shows, by name."""


def documented() -> list[Documented]:
    """Every command: lines of code, continued ones whole, those within a folder, and commands inside a text."""
    found = []
    for page in _PAGES:
        text = page.read_text(encoding="utf-8")
        modules: dict[str, str] = {}
        for shown in _MODULE.finditer(text):  # a file may be shown in several parts
            modules[shown["name"]] = modules.get(shown["name"], "") + shown["code"]
        for match in _LINE.finditer(text):
            command = next(match[name] for name in ("inside", "line", "text") if match[name] is not None)
            if not _SYNOPSIS.search(command):
                where = f"{page.name}:{text.count(chr(10), 0, match.start()) + 1}"
                arguments = shlex.split(command.replace("\\\n", " "), comments=True)
                found.append(Documented(where, arguments, match["folder"] or "", modules))
    return found


COMMANDS_OF_THE_DOCS = documented()


def test_the_commands_of_the_docs_are_found() -> None:
    pages = {command.where.partition(":")[0] for command in COMMANDS_OF_THE_DOCS}
    assert {"README.md", "configuration.md", "data.md", "algorithms.md", "hooks.md"} <= pages
    assert len(COMMANDS_OF_THE_DOCS) > 25
    assert {"examples/own_environment", "examples/own_agent"} <= {command.folder for command in COMMANDS_OF_THE_DOCS}


@pytest.mark.parametrize("page", _PAGES, ids=[page.name for page in _PAGES])
def test_no_line_that_is_typed_is_overlooked(page: Path) -> None:
    """Whatever stands before the command: a folder to go to, or a variable of the environment."""
    lines = enumerate(page.read_text(encoding="utf-8").splitlines(), 1)
    typed = {
        f"{page.name}:{number}"
        for number, line in lines
        if re.match(rf"[^`|#]*{_START}", line) and not _SYNOPSIS.search(line)
    }
    assert typed <= {command.where for command in COMMANDS_OF_THE_DOCS}


@pytest.fixture
def files_of_the_docs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The files that the commands name."""
    monkeypatch.chdir(tmp_path)
    Path("my").mkdir()
    Path("my/recipe.yaml").write_text("defaults: [arithmetic, _self_]\n")
    Path("recipe.yaml").write_text("defaults: [arithmetic, {data: jsonl}, _self_]\ndata: {path: train.jsonl}\n")
    Path("my/first.yaml").write_text("defaults: [arithmetic_sft, _self_]\n")


@pytest.mark.usefixtures("files_of_the_docs")
@pytest.mark.parametrize("command", COMMANDS_OF_THE_DOCS, ids=[command.where for command in COMMANDS_OF_THE_DOCS])
def test_a_documented_command_composes_and_passes_the_checks(
    command: Documented, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, code in command.modules.items():
        (tmp_path / name).write_text(code)
        monkeypatch.delitem(sys.modules, name.removesuffix(".py"), raising=False)
    if command.folder:
        shutil.copytree(_ROOT / command.folder, tmp_path / command.folder)
        monkeypatch.chdir(command.folder)
    monkeypatch.syspath_prepend(Path.cwd())
    argv = command.arguments
    if argv and argv[0] in COMMANDS:
        assert all("=" in text or re.fullmatch(r"(--)?[\w./]+|http://[\w.:]+", text) for text in argv[1:])
        return
    arguments = read_arguments(argv)
    if arguments.options.help:
        return
    runs = expand(arguments.overrides) if arguments.options.multirun else [arguments.overrides]
    for overrides in runs:
        check(compose(arguments.recipe, overrides))

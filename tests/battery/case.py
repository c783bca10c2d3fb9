"""The stored cases: what is typed, what lies in the folder, and what a user may expect of the answer."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

CASES = Path(__file__).parent / "cases"

_KEYS = {"name", "args", "names", "said", "accepted", "files", "edits", "stock", "env", "exit"}
_OF_FILE = {"surface", "base", "stock", "files", "cases"}


@dataclass(frozen=True)
class Case:
    """One command line, typed in a folder of its own."""

    surface: str
    """Which of the user's surfaces it tries; a row of the table."""
    name: str
    """What is wrong with it, or for a control what is right: a sentence."""
    argv: list[str]
    """The command line after `python -m rlscale`; `{here}` stands for the folder."""
    base: list[str]
    """The words of it that it shares with others of its file."""
    names: str | None
    """A regular expression that the error lines must hold: the culprit. None for a control, which must be accepted."""
    said: bool = False
    """Whether a note that names the culprit will do, because the run has a meaning without it."""
    stock: list[str] = field(default_factory=list)
    """Good folders that are copied in first (see `stock`)."""
    files: dict[str, Any] = field(default_factory=dict)
    """Files that are written: text, or what `workshop` knows (`hex`, `json`, `rows`, ...)."""
    edits: list[dict[str, Any]] = field(default_factory=list)
    """What is done to the folder after that, in this order."""
    env: dict[str, str] = field(default_factory=dict)
    """Environment variables."""
    exit: int = 2
    """The exit code of a refusal."""
    either: bool = False
    """Whether it may be refused, by whatever name, or accepted (see `mutations`)."""

    @property
    def id(self) -> str:
        """Surface and name in one."""
        return f"{self.surface}: {self.name}"


def load(folder: Path = CASES) -> list[Case]:
    """All stored cases, in the order of the files. ValueError for one that is not well formed."""
    cases = [case for file in sorted(folder.glob("*.yaml")) for case in _of_file(file)]
    seen: dict[str, Case] = {}
    for case in cases:
        if case.id in seen:
            raise ValueError(f"two cases are called {case.id!r}")
        seen[case.id] = case
    return cases


def _of_file(file: Path) -> Iterator[Case]:
    content = yaml.load(file.read_text(encoding="utf-8"), Loader=yaml.CSafeLoader)
    for part in content if isinstance(content, list) else [content]:
        if unknown := set(part) - _OF_FILE:
            raise ValueError(f"{file.name}: {', '.join(sorted(unknown))} unknown")
        base = _words(part.get("base", []))
        for entry in part["cases"]:
            yield _case(entry, part, base, file.name)


def _case(entry: dict[str, Any], part: dict[str, Any], base: list[str], file: str) -> Case:
    if unknown := set(entry) - _KEYS:
        raise ValueError(f"{file}: {entry.get('name')}: {', '.join(sorted(unknown))} unknown")
    accepted = entry.get("accepted", False)
    if accepted == ("names" in entry):
        raise ValueError(f"{file}: {entry['name']}: either it is accepted, or it names a culprit")
    names = None if accepted else str(entry["names"])
    own = _words(entry.get("args", []))
    re.compile(names or "")
    return Case(
        surface=part["surface"],
        name=str(entry["name"]),
        argv=[*_kept(base, own), *own],
        base=base,
        names=names,
        said=entry.get("said", False),
        stock=[*part.get("stock", []), *entry.get("stock", [])],
        files={**part.get("files", {}), **entry.get("files", {})},
        edits=entry.get("edits", []),
        env=entry.get("env", {}),
        exit=entry.get("exit", 2),
    )


def _kept(base: list[str], own: list[str]) -> list[str]:
    """The shared words without those that the case says otherwise: a group cannot be chosen twice."""
    said = [word.partition("=")[0] for word in own]
    otherwise = {key.partition(".")[0] for key in said if key in ("data", "reward") or key.startswith("warm_start")}
    return [word for word in base if word.partition("=")[0] not in otherwise]


def _words(given: Any) -> list[str]:
    """The words of a command line: split as a shell would, or a list where quoting would blur what is meant."""
    return shlex.split(given) if isinstance(given, str) else [str(word) for word in given]

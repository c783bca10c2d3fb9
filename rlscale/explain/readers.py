"""Which files of rlscale read a key, and which checks look at it, found in the source without running any of it.

A file reads `trainer.recompute` where `.recompute` is asked of something that is called `trainer`, or that is a
`TrainerConfig` by its annotation. What is passed on as a whole (`asdict(config.optim)`) is not found.
"""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import rlscale

_PACKAGE = Path(rlscale.__file__).parent
_CHECKS = "rlscale/config/checks/"
_DECLARATIONS = ("rlscale/config/schema/", "rlscale/explain/")


@dataclass(frozen=True)
class Reader:
    """One function that reads a key."""

    file: str
    """As `rlscale/trainer/...`."""
    line: int
    function: str
    """Empty outside of functions."""
    says: str
    """The first line of its docstring."""

    @property
    def checks(self) -> bool:
        """Whether it is one of the checks of a configuration."""
        return self.file.startswith(_CHECKS)


def readers(key: str, section_type: type) -> list[Reader]:
    """The functions that read a key of a section of that type, in the order of the files."""
    section, _, name = key.rpartition(".")
    called = section.rpartition(".")[2]
    kinds = {kind.__name__ for kind in section_type.__mro__} - {"object", "Section"}
    found = []
    mentioned = re.compile(rf"\.{name}\b")
    for file, text in _sources():
        if mentioned.search(text):
            found += list(_reading(file, ast.parse(text), name, called, kinds))
    return found


@functools.cache
def _sources() -> tuple[tuple[str, str], ...]:
    files = sorted(_PACKAGE.rglob("*.py"))
    named = ((f"rlscale/{file.relative_to(_PACKAGE)}", file) for file in files)
    return tuple((name, file.read_text(encoding="utf-8")) for name, file in named if not name.startswith(_DECLARATIONS))


def _reading(file: str, tree: ast.Module, name: str, called: str, kinds: set[str]) -> Iterator[Reader]:
    """One reader for each outermost function that reads the key, and one for what stands outside of functions."""
    for node in tree.body:
        inner = node.body if isinstance(node, ast.ClassDef) else [node]
        for part in inner:
            asked = {_last(one.value) for one in ast.walk(part) if isinstance(one, ast.Attribute) and one.attr == name}
            if called in asked or (asked and not asked.isdisjoint(_annotated(node, kinds))):
                function = part if isinstance(part, ast.FunctionDef | ast.AsyncFunctionDef) else None
                said = (ast.get_docstring(function) or "") if function else ""
                yield Reader(file, part.lineno, function.name if function else "", said.split("\n")[0])


def _annotated(node: ast.AST, kinds: set[str]) -> Iterator[str]:
    """Names that are sections of these kinds by their annotation: arguments and fields."""
    for part in ast.walk(node):
        if isinstance(part, ast.arg) and part.annotation is not None and kinds & _words(part.annotation):
            yield part.arg
        elif isinstance(part, ast.AnnAssign) and kinds & _words(part.annotation):
            yield _last(part.target)


def _words(annotation: ast.expr) -> set[str]:
    return {_last(part) for part in ast.walk(annotation)}


def _last(node: ast.AST) -> str:
    return node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""

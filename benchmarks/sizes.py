"""The size of things in the package, as docs/architecture.md has them: `python benchmarks/sizes.py`.

Files by their lines, functions by theirs from `def` to the end, and the lines of `config/` without its schema over the
keys of the schema (those of every option, sections themselves and `_target_` left out).
"""

from __future__ import annotations

import ast
import importlib
import pkgutil
import statistics
from collections.abc import Iterator
from pathlib import Path

import rlscale
from rlscale.config import schema
from rlscale.config.schema.section import Section

ROOT = Path(rlscale.__file__).parent


def main() -> None:
    """Print a line for each."""
    texts = {path.relative_to(ROOT): path.read_text() for path in sorted(ROOT.rglob("*.py"))}
    lines = {path: text.count("\n") for path, text in texts.items()}
    largest = max(lines, key=lines.__getitem__)
    print(f"files: {len(lines)}, {sum(lines.values()):,} lines, median {statistics.median(lines.values()):g}")
    print(f"largest file: {largest}, {lines[largest]} lines; over 350: {sum(count > 350 for count in lines.values())}")
    functions: dict[str, int] = {}
    documented = []
    for path, text in texts.items():
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                functions[f"{node.name} in {path}:{node.lineno}"] = (node.end_lineno or 0) - node.lineno + 1
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                documented.append(ast.get_docstring(node) is not None)
    longest = max(functions, key=functions.__getitem__)
    print(
        f"functions: median {statistics.median(functions.values()):g} lines, longest {functions[longest]} ({longest})"
    )
    print(f"with a docstring: {sum(documented) / len(documented):.0%} of functions and classes")
    machinery = sum(count for path, count in lines.items() if path.parts[0] == "config" and path.parts[1] != "schema")
    keys = len(list(keys_of_schema()))
    print(f"configuration: {machinery:,} lines, {keys} keys, {machinery / keys:.1f} lines per key")


def keys_of_schema() -> Iterator[str]:
    """Every key that some section has."""
    for module in pkgutil.iter_modules(schema.__path__):
        importlib.import_module(f"{schema.__name__}.{module.name}")
    sections = set(subclasses(Section))
    names = {section.__name__ for section in sections}
    for section in sections:
        for key, kind in vars(section).get("__annotations__", {}).items():
            if key != "_target_" and str(kind).partition("|")[0].strip() not in names:
                yield f"{section.__name__}.{key}"


def subclasses(kind: type[Section]) -> Iterator[type[Section]]:
    """All of them, at any depth."""
    for one in kind.__subclasses__():
        yield one
        yield from subclasses(one)


if __name__ == "__main__":
    main()

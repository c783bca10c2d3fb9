"""On which line of a YAML file each of its values stands."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import yaml

_LOADER = yaml.CSafeLoader if yaml.__with_libyaml__ else yaml.SafeLoader


def lines_of(file: Path) -> dict[str, int]:
    """Line (from 1) by dotted key, sections included, entries of lists by number. The file must be valid YAML."""
    root = yaml.compose(file.read_text(encoding="utf-8"), Loader=_LOADER)
    return dict(_lines(root, "")) if root is not None else {}


def _lines(node: yaml.Node, prefix: str) -> Iterator[tuple[str, int]]:
    if isinstance(node, yaml.MappingNode):
        inner = [(str(key.value), key, value) for key, value in node.value]
    elif isinstance(node, yaml.SequenceNode):
        inner = [(str(number), item, item) for number, item in enumerate(node.value)]
    else:
        return
    for name, marked, value in inner:
        yield prefix + name, marked.start_mark.line + 1
        yield from _lines(value, f"{prefix}{name}.")

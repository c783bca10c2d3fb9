"""Which keys hold paths, and which folder a relative one starts from.

A relative path in a file (a recipe, an option file of the user's) starts from the folder of that file; on the command
line, from the current folder. The schema marks the keys (`path_key`); options that are passed on to Megatron, SGLang
or a user's function stay as they are given.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from omegaconf import MISSING

from rlscale.config.composition.groups import ANY, matches
from rlscale.config.schema import Config
from rlscale.config.schema.about import PathKind, about
from rlscale.config.schema.section import Section, fields_of, sections_in


@functools.cache
def path_keys() -> Mapping[str, PathKind]:
    """Every key of the schema that holds a path, in whichever kind of its section."""
    return dict(_marked(Config, ""))


def _marked(
    section: type[Section], prefix: str, inside: frozenset[type[Section]] = frozenset()
) -> Iterator[tuple[str, PathKind]]:
    for kind in {section, *section.__subclasses__()} - inside:  # the sources of a mixture are not mixtures again
        hints = get_type_hints(kind)
        for field in fields(kind):
            if (path := about(field).path) is not None:
                yield prefix + field.name, path
            for part in (hints[field.name], *get_args(hints[field.name])):
                if isinstance(part, type) and issubclass(part, Section):
                    of_each = ANY + "." if get_origin(hints[field.name]) is dict else ""
                    yield from _marked(part, f"{prefix}{field.name}.{of_each}", inside | {kind})


def path_kind(key: str) -> PathKind | None:
    """What kind of path a key holds; None for one that holds none."""
    if (known := path_keys().get(key)) is not None:
        return known
    return next((kind for name, kind in path_keys().items() if ANY in name and matches(key, name)), None)


def anchored(value: Any, kind: PathKind, base: Path) -> Any:
    """A path as it was written (or a list of them) as an absolute one, a relative one taken from `base`.

    Hub names, names of shipped recipes and interpolations stay as they are.
    """
    if isinstance(value, list):
        return [anchored(item, kind, base) for item in value]
    if not isinstance(value, str) or value in ("", MISSING) or value.startswith("${"):
        return value
    path = os.path.abspath(base / os.path.expanduser(value))
    if kind is PathKind.recipe and not value.endswith((".yaml", ".yml")):
        return value
    if kind is PathKind.folder_or_name and not (value.startswith((".", "~", "/")) or os.path.isdir(path)):
        return value
    return path


def anchor_values(values: dict[str, Any], base: Path, prefix: str = "") -> None:
    """Anchor the paths among a file's nested values, in place."""
    for name, value in values.items():
        key = f"{prefix}{name}"
        if isinstance(value, dict):
            anchor_values(value, base, f"{key}.")
        elif (kind := path_kind(key)) is not None:
            values[name] = anchored(value, kind, base)


def anchor_section(section: Section, base: Path) -> None:
    """Anchor the paths of a section and of those inside it, in place."""
    for field in fields_of(section):
        if (path := about(field).path) is not None:
            setattr(section, field.name, anchored(getattr(section, field.name), path, base))
    for _, inner in sections_in(section):
        anchor_section(inner, base)

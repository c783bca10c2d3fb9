"""Sections, mappings and lists of a configuration: whether each is one, and whether what is in it has a usable name."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, get_args, get_origin

from rlscale.config.schema.section import Section

Hints = Callable[[type[Any]], Mapping[str, Any]]
_NAME = re.compile(r"\w[\w-]{0,63}")


def name_problem(key: str, name: str) -> str | None:
    """What is wrong with the name of a section that somebody chose, as of an evaluation set; `key` is its place.

    Names become parts of keys, of metrics and of files.
    """
    if _NAME.fullmatch(name):
        return None
    return f"{key}: {name!r} is no name; it has letters, digits, _ and - only, 64 at most, and does not begin with -"


def unusable_containers(section: Section, hints: Hints, prefix: str = "") -> Iterator[str]:
    """A line for each value that is no section, mapping or list where the schema has one, and for unusable names.

    An interpolation is known to be one of another kind only when it is resolved. `hints`: the types of the fields of a
    kind of section, by name.
    """
    for name, hint in hints(type(section)).items():
        key, value = f"{prefix}{name}", getattr(section, name)
        kinds = tuple(part for part in (hint, *get_args(hint)) if isinstance(part, type) and issubclass(part, Section))
        if get_origin(hint) is dict:
            yield from _mapping(key, value, kinds, hints)
        elif get_origin(hint) is list and not isinstance(value, list):
            yield f"{key}: must be a list, and is {value!r}"
        elif not kinds or (value is None and type(None) in get_args(hint)):
            continue
        elif not isinstance(value, kinds):
            yield f"{key}: must be a section with keys of its own, and is {'null' if value is None else repr(value)}"
        else:
            yield from unusable_containers(value, hints, f"{key}.")


def _mapping(key: str, value: Any, kinds: tuple[type[Section], ...], hints: Hints) -> Iterator[str]:
    if not isinstance(value, dict):
        yield f"{key}: must be a mapping, and is {value!r}"
        return
    for name, inner in value.items() if kinds else ():
        if (problem := name_problem(key, str(name))) is not None:
            yield problem
        elif not isinstance(inner, kinds):
            yield f"{key}.{name}: must be a section with keys of its own, and is {inner!r}"
        else:
            yield from unusable_containers(inner, hints, f"{key}.{name}.")

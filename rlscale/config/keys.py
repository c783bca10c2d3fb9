"""The keys of a configuration with what the schema says of each, and its values as plain data."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Collection, Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from enum import Enum
from typing import Any, NamedTuple

from rlscale.config.schema import Config
from rlscale.config.schema.about import About, Scope, Unread, about
from rlscale.config.schema.section import SCALARS, Section, fields_of, sections_of


class Key(NamedTuple):
    """One value of a configuration."""

    name: str
    """Dotted."""
    value: Any
    field: Field[Any]
    """Of the schema."""
    section: Section
    """The section that it stands in."""
    about: About
    unread: tuple[tuple[Unread, Section], ...]
    """When nothing reads it: of the sections around it, then of the key, each with the section that it asks."""

    @property
    def default(self) -> Any:
        """What the schema gives it; `dataclasses.MISSING` without a default."""
        return self.field.default if self.field.default_factory is MISSING else self.field.default_factory()


def keys(section: Section, prefix: str = "", around: tuple[tuple[Unread, Section], ...] = ()) -> list[Key]:
    """Every value of a section and of those inside it, in the order of the schema."""
    found: list[Key] = []
    _walk(section, prefix, around, found)
    return found


def _walk(section: Section, prefix: str, around: tuple[tuple[Unread, Section], ...], found: list[Key]) -> None:
    for item in fields_of(section):
        value, said = getattr(section, item.name), about(item)
        unread = (*around, *((one, section) for one in said.unread)) if said.unread else around
        inside = () if type(value) in SCALARS else sections_of(item.name, value)
        for name, inner in inside:
            _walk(inner, f"{prefix}{name}.", unread, found)
        if not inside:
            found.append(Key(f"{prefix}{item.name}", value, item, section, said, unread))


def plain(value: Any, scopes: Collection[Scope] = tuple(Scope)) -> Any:
    """Sections as dicts, enums by name, all the way down: what YAML and JSON hold. Of those `scopes` alone."""
    kind: Any = type(value)  # to mypy the class of a dataclass without a hash has none itself
    if kind in SCALARS:
        return value
    if (names := _names(kind)) is not None:
        return {name: plain(getattr(value, name), scopes) for name, scope in names if scope in scopes}
    if isinstance(value, Mapping):
        return {str(key): plain(item, scopes) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item, scopes) for item in value]
    return value.name if isinstance(value, Enum) else value


@functools.cache
def _names(kind: Any) -> tuple[tuple[str, Scope], ...] | None:
    """Names and scopes of the fields of a dataclass; None for another type."""
    return tuple((item.name, about(item).scope) for item in fields(kind)) if is_dataclass(kind) else None


def what_counts(config: Config) -> dict[str, Any]:
    """The values that decide what is computed."""
    counts: dict[str, Any] = plain(config, (Scope.result,))
    return counts


def config_hash(config: Config) -> str:
    """Twelve hex digits that two configurations share exactly when they compute the same (`Scope.result`).

    `run.iterations` is part of it: the learning rate's schedule depends on it.
    """
    return hashlib.sha256(json.dumps(what_counts(config), sort_keys=True).encode()).hexdigest()[:12]

"""The keys of a configuration with what the schema says of each, and its values as plain data."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from enum import Enum
from typing import Any

from rlscale.config.schema import Config
from rlscale.config.schema.about import About, Scope, Unread, about
from rlscale.config.schema.section import Section, sections_of


@dataclass(frozen=True)
class Key:
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


def keys(section: Section, prefix: str = "", around: tuple[tuple[Unread, Section], ...] = ()) -> Iterator[Key]:
    """Every value of a section and of those inside it, in the order of the schema."""
    for item in fields(section):
        value, said = getattr(section, item.name), about(item)
        unread = (*around, *((one, section) for one in said.unread)) if said.unread else around
        inside = list(sections_of(item.name, value))
        for name, inner in inside:
            yield from keys(inner, f"{prefix}{name}.", unread)
        if not inside:
            yield Key(f"{prefix}{item.name}", value, item, section, said, unread)


def plain(value: Any, scopes: Collection[Scope] = tuple(Scope)) -> Any:
    """Sections as dicts, enums by name, all the way down: what YAML and JSON hold. Of those `scopes` alone."""
    if value is None or (isinstance(value, str | int | float) and not isinstance(value, Enum)):
        return value
    if is_dataclass(value) and not isinstance(value, type):
        taken = (item for item in fields(value) if about(item).scope in scopes)
        return {item.name: plain(getattr(value, item.name), scopes) for item in taken}
    if isinstance(value, Mapping):
        return {str(key): plain(item, scopes) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item, scopes) for item in value]
    return value.name if isinstance(value, Enum) else value


def what_counts(config: Config) -> dict[str, Any]:
    """The values that decide what is computed."""
    counts: dict[str, Any] = plain(config, (Scope.result,))
    return counts


def config_hash(config: Config) -> str:
    """Twelve hex digits that two configurations share exactly when they compute the same (`Scope.result`).

    `run.iterations` is part of it: the learning rate's schedule depends on it.
    """
    return hashlib.sha256(json.dumps(what_counts(config), sort_keys=True).encode()).hexdigest()[:12]

"""Fields that hold a component: a class or function by `_target_`, with its own arguments beside it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import field, fields
from typing import Any

from rlscale.config.schema.section import Section

TARGET = "_target_"
COMPONENT = "component"
"""Where the metadata of a field say that it holds a component, and which target is shipped for it."""


def component(target: str) -> Any:
    """A field for a node `{_target_: dotted.path, argument: value, ...}`; `target` is the shipped choice."""
    return field(default_factory=lambda: {TARGET: target}, metadata={COMPONENT: target})


def target_field(target: str) -> Any:
    """The `_target_` of a section that has keys of its own; `target` is the shipped choice."""
    return field(default=target, metadata={COMPONENT: target})


def component_nodes(section: Section, prefix: str = "") -> Iterator[tuple[str, Mapping[str, Any], str]]:
    """Every component in a section and the sections inside it: its key, its node, and the shipped target.

    A section that has a `_target_` of its own is one, with its `arguments`.
    """
    for item in fields(section):
        value, shipped = getattr(section, item.name), item.metadata.get(COMPONENT)
        if item.name == TARGET and shipped is not None:
            yield prefix.rstrip("."), {TARGET: value, **getattr(section, "arguments", {})}, shipped
        elif shipped is not None:
            yield f"{prefix}{item.name}", value, shipped
        elif isinstance(value, Section):
            yield from component_nodes(value, f"{prefix}{item.name}.")

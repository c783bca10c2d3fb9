"""Fields that hold a component: a class or function by `_target_`, with its own arguments beside it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rlscale.config.schema.about import About, about, described
from rlscale.config.schema.section import SCALARS, Section, fields_of
from rlscale.config.target_key import TARGET


def component(target: str) -> Any:
    """A field for a node `{_target_: dotted.path, argument: value, ...}`; `target` is the shipped choice."""
    return described(lambda: {TARGET: target}, About(component=target))


def target_field(target: str) -> Any:
    """The `_target_` of a section that has keys of its own; `target` is the shipped choice."""
    return described(target, About(component=target))


def component_nodes(section: Section, prefix: str = "") -> Iterator[tuple[str, Mapping[str, Any], str]]:
    """Every component in a section and the sections inside it: its key, its node, and the shipped target.

    A section that has a `_target_` of its own is one, with its `arguments`.
    """
    for item in fields_of(section):
        value, shipped = getattr(section, item.name), about(item).component
        if item.name == TARGET and shipped is not None:
            yield prefix.rstrip("."), {TARGET: value, **getattr(section, "arguments", {})}, shipped
        elif shipped is not None:
            yield f"{prefix}{item.name}", value, shipped
        elif type(value) not in SCALARS and isinstance(value, Section):
            yield from component_nodes(value, f"{prefix}{item.name}.")

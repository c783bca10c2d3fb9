"""A dotted key of a composed configuration: which section of the schema it belongs to, and what it holds."""

from __future__ import annotations

from dataclasses import MISSING, Field, dataclass, fields
from typing import Any, get_origin

from omegaconf import DictConfig, OmegaConf

from rlscale.config.composition.assignment import hints, known_keys, section_type
from rlscale.config.composition.debug_option import GROUP as DEBUG
from rlscale.config.errors import UserError
from rlscale.config.nearest import did_you_mean, nearest_key
from rlscale.config.schema import Config
from rlscale.config.schema.section import Section


@dataclass(frozen=True)
class LocatedKey:
    """A key, found in the schema."""

    name: str
    """Dotted, as asked for."""
    kind: type[Any]
    """The type of the section that its field stands in."""
    field: Field[Any] | None
    """None for a named section of an open mapping (`data.sources.easy`)."""
    key: str
    """The dotted key of the field."""

    @property
    def inside(self) -> str:
        """What follows the field's key: an option of a package, or an argument of a class; "" for the field itself."""
        return self.name[len(self.key) + 1 :]

    @property
    def section(self) -> type[Section] | None:
        """The type of the section that it is; None for a value."""
        if self.field is None:
            return self.kind
        return None if self.inside else section_type(hints(self.kind)[self.field.name])

    @property
    def default(self) -> Any:
        """Of the schema; `dataclasses.MISSING` without one, and for what stands inside a field."""
        if self.field is None or self.inside:
            return MISSING
        return self.field.default if self.field.default_factory is MISSING else self.field.default_factory()


def locate(node: DictConfig, key: str) -> LocatedKey:
    """Find a key. Raises UserError, with the nearest one, where there is none."""
    if key == DEBUG:
        raise UserError(f"{key}: is an option and no key; explain {key}=tiny_model lists what it sets")
    parts = key.split(".")
    found = _find(Config, node, parts)
    if found is None:
        raise UserError(f"{key}: unknown key{did_you_mean(nearest_key(key, known_keys(node)))}")
    kind, field, depth = found
    return LocatedKey(key, kind, field, ".".join(parts[:depth]))


def _find(kind: type[Any], node: Any, parts: list[str]) -> tuple[type[Any], Field[Any] | None, int] | None:
    """The section type and field that the first of `parts` lead to, and how many of them do."""
    field = next((item for item in fields(kind) if item.name == parts[0]), None)
    if field is None or len(parts) == 1:
        return (kind, field, 1) if field is not None else None
    hint, child, skipped = hints(kind)[field.name], _child(node, parts[0]), 1
    inner = _type_of(child) or section_type(hint)
    if get_origin(hint) is dict:
        if inner is None:
            return kind, field, 1
        child, skipped = _child(child, parts[1]), 2  # named by the user: data.sources.easy
        inner = _type_of(child) or inner
        if len(parts) == 2:
            return inner, None, 2
    found = _find(inner, child, parts[skipped:]) if inner is not None else None
    return (found[0], found[1], found[2] + skipped) if found is not None else None


def value_at(node: DictConfig, key: str) -> Any:
    """What the composed configuration holds there, plain and with interpolations as they are written.

    `dataclasses.MISSING` where nobody has set it.
    """
    above, _, last = key.rpartition(".")
    parent = OmegaConf.select(node, above) if above else node
    if not isinstance(parent, DictConfig) or last not in parent or OmegaConf.is_missing(parent, last):
        return MISSING
    values = OmegaConf.to_container(parent, resolve=False, enum_to_str=True)
    assert isinstance(values, dict)
    return values[last]


def _child(node: Any, name: str) -> Any:
    return node._get_node(name) if isinstance(node, DictConfig) and not node._is_none() else None


def _type_of(node: Any) -> type[Section] | None:
    """The type of a section that is filled in, which may be one of several kinds."""
    filled = isinstance(node, DictConfig) and not node._is_none() and not node._is_missing()
    kind: Any = OmegaConf.get_type(node) if filled else None
    return kind if isinstance(kind, type) and issubclass(kind, Section) else None

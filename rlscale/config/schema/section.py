"""The base of every configuration section: plain while OmegaConf composes it, read-only once the run holds it."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import Field, dataclass, fields
from types import NoneType
from typing import Any, ClassVar, TypeVar

from omegaconf import II

S = TypeVar("S", bound="Section")

SCALARS = frozenset({NoneType, bool, int, float, str})
"""Types of most values, which hold nothing: what walks over a configuration need not look into them."""


@dataclass
class Section:
    """A configuration section. OmegaConf needs mutable dataclasses; `freeze` closes one after composing.

    A section of a group whose options have keys of their own says which group (`class LossConfig(Section,
    group="algo/loss")`), and each of its kinds the option that it is (`class ClipLoss(LossConfig, option="clip")`).
    An option's file names it in its defaults list as `<option>_schema`, or as `schema` where that is given.
    """

    group: ClassVar[str] = ""
    """The group that this section's options are from; "" where they all have the same keys."""
    option: ClassVar[str] = ""
    """The shipped option of that group that this kind of section is."""
    schema: ClassVar[str] = ""
    """Its name in defaults lists."""

    def __init_subclass__(cls, group: str = "", option: str = "", schema: str = "") -> None:
        cls.group = group or cls.group
        cls.option, cls.schema = option, schema or (f"{option}_schema" if option else "")

    def __setattr__(self, name: str, value: Any) -> None:
        if getattr(self, "_frozen", False):
            raise AttributeError(f"{type(self).__name__}.{name} is read-only: the configuration of a run never changes")
        object.__setattr__(self, name, value)

    def freeze(self) -> None:
        """Make this section and every section inside it read-only."""
        for _, section in sections_in(self):
            section.freeze()
        object.__setattr__(self, "_frozen", True)


def fields_of(section: Section) -> tuple[Field[Any], ...]:
    """The fields of a section: `dataclasses.fields`, which looks them up anew whenever it is asked."""
    kind: Any = type(section)  # to mypy the class of a dataclass without a hash has none itself
    return _fields_of(kind)


@functools.cache
def _fields_of(kind: Any) -> tuple[Field[Any], ...]:
    return fields(kind)


def sections_in(section: Section) -> Iterator[tuple[str, Section]]:
    """The sections right inside one with their keys, those of a mapping as `field.key`."""
    for item in fields_of(section):
        value = getattr(section, item.name)
        if type(value) not in SCALARS:
            yield from sections_of(item.name, value)


def sections_of(name: str, value: Any) -> Sequence[tuple[str, Section]]:
    """The value of a key if it is a section, or those that it maps names to."""
    if isinstance(value, Section):
        return ((name, value),)
    if isinstance(value, dict):
        return [(f"{name}.{key}", inner) for key, inner in value.items() if isinstance(inner, Section)]
    return ()


def following(schema: type[S], section: str) -> S:
    """A section whose every value is, until it is set, that of the same key in another section."""
    return schema(**{item.name: II(f"{section}.{item.name}") for item in fields(schema)})

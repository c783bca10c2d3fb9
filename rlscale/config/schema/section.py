"""The base of every configuration section: plain while OmegaConf composes it, read-only once the run holds it."""

from __future__ import annotations

from dataclasses import dataclass, fields, is_dataclass
from typing import Any, TypeVar

from omegaconf import II

S = TypeVar("S", bound="Section")


@dataclass
class Section:
    """A configuration section. OmegaConf needs mutable dataclasses; `freeze` closes one after composing."""

    def __setattr__(self, name: str, value: Any) -> None:
        if getattr(self, "_frozen", False):
            raise AttributeError(f"{type(self).__name__}.{name} is read-only: the configuration of a run never changes")
        object.__setattr__(self, name, value)

    def freeze(self) -> None:
        """Make this section and every section inside it read-only."""
        for field in fields(self):
            value = getattr(self, field.name)
            if is_dataclass(value) and isinstance(value, Section):
                value.freeze()
        object.__setattr__(self, "_frozen", True)


def following(schema: type[S], section: str) -> S:
    """A section whose every value is, until it is set, that of the same key in another section."""
    return schema(**{field.name: II(f"{section}.{field.name}") for field in fields(schema)})

"""The base of every configuration section: plain while OmegaConf composes it, read-only once the run holds it."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, is_dataclass
from enum import Enum
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
        for item in fields(self):
            value = getattr(self, item.name)
            if is_dataclass(value) and isinstance(value, Section):
                value.freeze()
        object.__setattr__(self, "_frozen", True)


class PathKind(Enum):
    """What a path may also be, besides a path."""

    path = "path"
    folder_or_name = "a folder, or a name on the Hugging Face hub"
    recipe = "a file with a recipe, or the name of a shipped one"


PATH = "path"
"""Where the metadata of a field say that it holds a path, and of which kind."""


def path_field(default: Any, kind: PathKind = PathKind.path) -> Any:
    """A field whose value is a path; `rlscale.config.paths` says where a relative one starts."""
    return field(default=default, metadata={PATH: kind})


def following(schema: type[S], section: str) -> S:
    """A section whose every value is, until it is set, that of the same key in another section."""
    return schema(**{item.name: II(f"{section}.{item.name}") for item in fields(schema)})

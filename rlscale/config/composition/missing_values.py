"""Values that an option leaves to the user (`key: ???` in its file)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import yaml
from omegaconf import DictConfig, Node

from rlscale.config.composition.groups import Groups, section
from rlscale.config.composition.recipe_file import leaves

_OPEN = "???"


def left_open(choices: Mapping[str, str], groups: Groups) -> Iterator[str]:
    """Dotted keys that the chosen options leave open; where the schema has a default, Hydra would take that instead."""
    for choice, option in choices.items():
        group = choice.partition("@")[0]
        for folder in groups.folders:
            file = folder / group / f"{option}.yaml"
            text = file.read_text(encoding="utf-8") if file.is_file() else ""
            if _OPEN in text and "@package" not in text:  # an option may put its values elsewhere
                values = yaml.safe_load(text)
                yield from (f"{section(choice)}.{key}" for key, value in leaves(values) if value == _OPEN)


def missing_keys(node: DictConfig, prefix: str = "") -> Iterator[str]:
    """Dotted keys without a value. One that follows another key has that one's, so it is not named again."""
    for name in map(str, node):
        child = node._get_node(name)
        if not isinstance(child, Node):
            continue
        if child._is_missing():
            yield f"{prefix}{name}"
        elif isinstance(child, DictConfig) and not child._is_none() and not child._is_interpolation():
            yield from missing_keys(child, f"{prefix}{name}.")

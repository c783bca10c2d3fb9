"""Which options of a group have a key that the chosen one lacks: `data.path` belongs to `data=jsonl`."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import fields
from pathlib import Path
from typing import Any

from rlscale.config.composition.groups import Groups
from rlscale.config.composition.store import schemas
from rlscale.config.composition.yaml_file import read_yaml
from rlscale.config.errors import UserError


def options_with(key: str, groups: Groups, known: Collection[str] = ()) -> list[str]:
    """The choices (`data=jsonl`) whose section has that dotted key; empty where the group has one schema for all.

    `known`: keys that are there; where the chosen option has the section, it is not the option that is wrong.
    """
    parts = key.split(".")
    for depth in range(1, len(parts)):
        choice = groups.at(".".join(parts[:depth]))
        if choice is None or ".".join(parts[: depth + 1]) in known:
            continue
        group = choice.partition("@")[0]
        found = [option for option in groups.options(group) if parts[depth] in _keys(group, option, groups)]
        if found:
            return [f"{choice}={option}" for option in found]
    return []


def _keys(group: str, option: str, groups: Groups) -> set[str]:
    """Keys of the schema that an option names in its defaults list; empty without one."""
    files = [folder / group / f"{option}.yaml" for folder in groups.folders]
    named = [entry for file in files if file.is_file() for entry in _defaults(file)]
    known = schemas()
    return {field.name for entry in named if entry in known for field in fields(known[entry])}


def _defaults(file: Path) -> list[str]:
    try:
        content: Any = read_yaml(file)
    except UserError:
        return []  # a user's option, and not the chosen one: Hydra reads that itself
    defaults = content.get("defaults") if isinstance(content, dict) else None
    return [entry for entry in defaults if isinstance(entry, str)] if isinstance(defaults, list) else []

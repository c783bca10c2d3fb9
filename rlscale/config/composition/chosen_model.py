"""`model=<folder or hub name>`: any model of a supported architecture in the place of an option of the group."""

from __future__ import annotations

from pathlib import Path

from rlscale.config.composition.groups import Groups
from rlscale.config.composition.yaml_file import read_yaml

GROUP = "model"
_ANY = "any"
"""The option that says nothing of a model but what every one needs."""


def chosen_model(value: object, groups: Groups) -> tuple[str, list[tuple[str, str]]] | None:
    """The option that a folder or hub name stands for, and (key, value) besides; None for what names an option itself.

    A hub name that an option has is that option, with the parsers that it knows.
    """
    if not isinstance(value, str) or ("/" not in value and groups.file(GROUP, value) is not None):
        return None
    folder = Path(value).expanduser()
    if "/" not in value and not folder.is_dir():
        return None
    known = None if folder.is_dir() else _of_name(value, groups)
    return (known, []) if known else (_ANY, [(f"{GROUP}.path", value), (f"{GROUP}.name", folder.resolve().name)])


def _of_name(name: str, groups: Groups) -> str | None:
    """The option of the model with that name on the hub."""
    for option in groups.options(GROUP):
        content = read_yaml(file) if (file := groups.file(GROUP, option)) is not None else None
        if isinstance(content, dict) and content.get("path") == name:
            return option
    return None

"""What differs between two configurations: of recipes, or of runs that were."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from rlscale.config.composition.compose import compose_node
from rlscale.config.composition.differences import differences
from rlscale.config.composition.yaml_file import read_yaml
from rlscale.config.errors import UserError
from rlscale.explain.key_lines import shown_value

_RESOLVED = "resolved.yaml"


def diff_lines(one: str, other: str) -> Iterator[str]:
    """A line for each key that two recipes (names or paths) or output folders have otherwise.

    Of two runs, also the versions that they ran on. Raises UserError for what is neither.
    """
    before, after = _values(one), _values(other)
    if not ("ran_on" in before and "ran_on" in after):
        before.pop("ran_on", None)
        after.pop("ran_on", None)
    gone = {key: (old, new) for key, (new, old) in differences(after, before)}
    differing = {**gone, **dict(differences(before, after))}
    lines = [f"  {key}: {shown_value(old)} -> {shown_value(new)}" for key, (old, new) in differing.items()]
    yield f"{one} -> {other}: {len(lines)} values differ" if lines else f"{one} and {other} say the same"
    yield from lines


def _values(name: str) -> dict[str, Any]:
    folder = Path(name)
    if folder.is_dir():
        file = folder / _RESOLVED
        if not file.is_file():
            raise UserError(f"{folder}: holds no {_RESOLVED}; is it the output folder of a run?")
        content = read_yaml(file)
        if not isinstance(content, Mapping):
            raise UserError(f"{file}: is not the configuration of a run")
        return dict(content)
    node = compose_node(name).node
    found = OmegaConf.to_container(node, resolve=True, enum_to_str=True, throw_on_missing=False)
    assert isinstance(found, dict)
    return {str(key): value for key, value in found.items()}

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
    (before, written), (after, written_after) = _values(one), _values(other)
    if not ("ran_on" in before and "ran_on" in after):
        before.pop("ran_on", None)
        after.pop("ran_on", None)
    gone = {key: (old, new) for key, (new, old) in differences(after, before)}
    differing = {**gone, **dict(differences(before, after))}
    following = {key for key in differing if (to := _follows(written, key)) and to == _follows(written_after, key)}
    lines = [
        f"  {key}: {_shown(before, key, old)} -> {_shown(after, key, new)}"
        for key, (old, new) in differing.items()
        if key not in following
    ]
    more = f", and {len(following)} that follow them" if following else ""
    yield f"{one} -> {other}: {len(lines)} values differ{more}" if lines else f"{one} and {other} say the same"
    yield from lines


def _shown(values: Any, key: str, value: Any) -> str:
    """The value of a key; of one that there is not, as another class has other arguments, that."""
    for part in key.split("."):
        if not isinstance(values, Mapping) or part not in values:
            return "(no such key)"
        values = values[part]
    return shown_value(value)


def _follows(written: Any, key: str) -> str | None:
    """What the value, or a section around it, is written as where it is that of another key."""
    for part in key.split("."):
        written = written.get(part) if isinstance(written, Mapping) else None
        if isinstance(written, str) and "${" in written:
            return written
    return None


def _values(name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The values, and how they are written: one may follow that of another key."""
    folder = Path(name)
    if folder.is_dir():
        file = folder / _RESOLVED
        if not file.is_file():
            raise UserError(f"{folder}: holds no {_RESOLVED}; is it the output folder of a run?")
        content = read_yaml(file)
        if not isinstance(content, Mapping):
            raise UserError(f"{file}: is not the configuration of a run")
        return dict(content), {}
    node = compose_node(name).node
    found, written = (
        OmegaConf.to_container(node, resolve=resolve, enum_to_str=True, throw_on_missing=False)
        for resolve in (True, False)
    )
    assert isinstance(found, dict)
    assert isinstance(written, dict)
    return {str(key): value for key, value in found.items()}, {str(key): value for key, value in written.items()}

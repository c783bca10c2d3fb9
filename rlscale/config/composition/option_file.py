"""Looking at a user's option files before Hydra does, which would answer most mistakes with a traceback."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rlscale.config.composition.groups import Groups
from rlscale.config.composition.store import schemas
from rlscale.config.composition.yaml_file import read_yaml
from rlscale.config.errors import UserError
from rlscale.config.nearest import did_you_mean, nearest


def read_options(choices: Mapping[str, str], groups: Groups) -> None:
    """Read the files of the chosen options, and of those that they build on. Raises UserError naming the file.

    What comes with rlscale is not read: Hydra will.
    """
    for choice, option in choices.items():
        _read(f"{choice.partition('@')[0]}/{option}", groups, ())


def _read(name: str, groups: Groups, inside: tuple[str, ...]) -> None:
    """Read the file of `group/option` and those that it builds on; `inside` are those that led to it."""
    places = [f"{folder}/{name}.yaml" for folder in groups.folders]
    if dangling := [place for place in places if os.path.islink(place) and not os.path.exists(place)]:
        raise UserError(f"{dangling[0]}: is a link to a file that is not there")
    found = next((place for place in places if os.path.isfile(place)), None)
    if found is None or found == places[0]:
        return
    file = Path(found)
    if name in inside:
        between = inside[inside.index(name) + 1 :]
        raise UserError(f"{file}: builds on itself{', by way of ' + ' and '.join(between) if between else ''}")
    content = read_yaml(file)
    if content is None:
        return
    if not isinstance(content, dict):
        raise UserError(f"{file}: an option is a mapping of keys to values, not a list")
    for other in _named(file, content.get("defaults", [])):
        inner = other.lstrip("/") if other.startswith("/") else f"{name.rpartition('/')[0]}/{other}"
        group, _, option = inner.rpartition("/")
        if option not in (*groups.options(group), *schemas(), "_self_"):
            hint = did_you_mean(nearest(option, groups.options(group)))
            raise UserError(f"{file}: defaults names {inner}, and there is no such option{hint}")
        _read(inner, groups, (*inside, name))


def _named(file: Path, defaults: Any) -> Iterator[str]:
    """The options that a defaults list names, as `group/option`, relative to the file's group or with a / in front."""
    if not isinstance(defaults, list):
        raise UserError(f"{file}: defaults is a list of options, not {defaults!r}; write - in front of each")
    for entry in defaults:
        if isinstance(entry, dict) and len(entry) == 1:
            ((words, option),) = entry.items()
            named = str(words).split()
            if named and isinstance(option, str):
                yield f"{named[-1].partition('@')[0]}/{option}"
        elif isinstance(entry, str) and entry:
            yield entry.partition("@")[0]
        else:
            raise UserError(f"{file}: {entry!r} in defaults is neither an option nor `group: option`")

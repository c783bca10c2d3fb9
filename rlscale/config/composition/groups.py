"""The configuration groups: which exist, which options each has, where each puts its values."""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rlscale.config.composition.locations import conf_dir
from rlscale.config.composition.yaml_file import read_yaml
from rlscale.config.errors import UserError
from rlscale.config.nearest import did_you_mean, nearest

ANY = "*"
"""Stands for a name that the user gives, in a dotted key."""
PLACES = {
    "data": ("data", "eval.data", "data.sources.*.data", "eval.sets.*.data"),
    "reward": ("reward", "data.sources.*.reward", "eval.sets.*.reward"),
}
"""Groups that fill more than one place of the configuration; `data@eval.data=...` names another one."""


def matches(key: str, place: str) -> bool:
    """Whether a dotted key is that place, in which `*` stands for one name."""
    parts, wanted = key.split("."), place.split(".")
    return len(parts) == len(wanted) and all(want in (ANY, part) for part, want in zip(parts, wanted, strict=True))


@dataclass(frozen=True)
class Groups:
    """The groups of `conf/`, their options also looked for in further folders (a recipe's own)."""

    folders: tuple[Path, ...]
    names: tuple[str, ...]

    @classmethod
    def of(cls, extra: Sequence[str] = ()) -> Groups:
        """The shipped groups. A further folder may add options to a group, but no group of its own.

        Raises UserError for a folder that does not exist.
        """
        conf = conf_dir()
        for folder in extra:
            if not Path(folder).is_dir():
                raise UserError(f"hydra.searchpath: there is no folder {folder}")
        return cls((conf, *map(Path, extra)), _names(conf))

    def options(self, group: str) -> list[str]:
        """Options of a group, sorted."""
        return sorted({file.stem for folder in self.folders for file in (folder / group).glob("*.yaml")})

    def ships(self, group: str, option: str) -> bool:
        """Whether rlscale itself has that option (others come from the folder of a user's recipe)."""
        return _is_shipped(f"{self.folders[0]}/{group}/{option}.yaml")

    def file(self, group: str, option: str) -> Path | None:
        """The file of an option; None for one that has none."""
        files = (f"{folder}/{group}/{option}.yaml" for folder in self.folders)
        return next((Path(file) for file in files if os.path.isfile(file)), None)

    def stamps(self) -> tuple[tuple[str, int], ...]:
        """Every option file outside rlscale, and when it was written last."""
        inside = [folder / name for folder in self.folders[1:] for name in self.names if os.path.isdir(folder / name)]
        files = (file for folder in inside for file in folder.glob("*.yaml"))
        return tuple(sorted((str(file), file.stat().st_mtime_ns) for file in files))

    def at(self, key: str) -> str | None:
        """The group choice that fills the section `key`: `algo/kl` for `algo.kl`, `data@eval.data` for `eval.data`."""
        for group, places in PLACES.items():
            if any(matches(key, place) for place in places):
                return group if key == places[0] else f"{group}@{key}"
        name = key.replace(".", "/")
        return name if name in self.names else None

    def inside(self, choice: str) -> bool:
        """Whether an option of the outer group chooses this one: `algo/loss`, of which every `algo` names one.

        Others, like `rollout/filter`, are chosen beside it.
        """
        outer, _, inner = choice.partition("@")[0].rpartition("/")
        return bool(outer) and inner in _chosen_within(self.folders[0] / outer)

    def problem(self, choice: str, option: object) -> str | None:
        """What is wrong with `choice=option`, where choice is a group or `group@place`; None if nothing is."""
        group, _, place = choice.partition("@")
        if group not in self.names:
            return f"{choice}={option}: there is no group {group}{did_you_mean(nearest(group, self.names))}"
        places = PLACES.get(group, (section(group),))
        if place and not any(matches(place, known) for known in places):
            named = [known.replace(ANY, "NAME") for known in places]
            return f"{choice}={option}: the group {group} fills {' or '.join(named)}"
        if isinstance(option, str) and option and "/" not in option and self.file(group, option) is not None:
            return None
        options = self.options(group)
        if not isinstance(option, str) or option not in options:
            target = _target_key(self.folders[0] / group) if isinstance(option, str) and "." in option else None
            own = f"a class or function of your own is named by {section(choice)}.{target}={option}."
            inside = own if target else f"values inside are set with {section(choice)}.<key>=..."
            hint = did_you_mean(nearest(str(option), options)) or f"; {inside}"
            return f"{choice}={option}: no such option{hint} Available: {', '.join(options)}"
        return None


def with_options(folders: Sequence[str]) -> list[str]:
    """Those of the folders that have a folder of some group, in which options may lie."""
    outermost = {name.partition("/")[0] for name in _names(conf_dir())}
    return [folder for folder in folders if any(Path(folder, name).is_dir() for name in outermost)]


@functools.cache
def _is_shipped(file: str) -> bool:
    return os.path.isfile(file)  # asked for every choice of every composition, and what ships stays as it is


@functools.cache
def _names(conf: Path) -> tuple[str, ...]:
    """The groups that ship."""
    return tuple(sorted(str(folder.relative_to(conf)) for folder in conf.rglob("*") if folder.is_dir()))


@functools.cache
def _chosen_within(folder: Path) -> frozenset[str]:
    """The groups that the shipped options in a folder choose in their defaults lists."""
    contents = [read_yaml(file) for file in folder.glob("*.yaml")]
    entries = [entry for content in contents for entry in (content or {}).get("defaults", ())]
    return frozenset(name for entry in entries if isinstance(entry, dict) for name in entry)


@functools.cache
def _target_key(folder: Path) -> str | None:
    """By which key the shipped options in a folder name a class or function: `_target_`, or `function._target_`."""
    for content in filter(None, (read_yaml(file) for file in folder.glob("*.yaml"))):
        inside = {f"{name}._target_": value for name, value in content.items() if isinstance(value, dict)}
        places = {"_target_": content, **inside}
        if found := next((place for place, node in places.items() if "_target_" in node), None):
            return found
    return None


def section(choice: str) -> str:
    """The dotted section that a group choice fills: `algo.kl` for `algo/kl`, `eval.data` for `data@eval.data`."""
    group, _, place = choice.partition("@")
    return place or group.replace("/", ".")

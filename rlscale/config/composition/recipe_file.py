"""Finding and reading a recipe: a primary Hydra config, by name (shipped) or by path (the user's)."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rlscale.config.composition.groups import section
from rlscale.config.composition.locations import recipes_dir
from rlscale.config.composition.paths import anchor_values
from rlscale.config.composition.store import ROOT
from rlscale.config.composition.yaml_file import read_yaml
from rlscale.config.errors import ConfigError, UserError
from rlscale.config.nearest import did_you_mean, nearest

DEFAULT = "arithmetic"


@dataclass
class RecipeFile:
    """A recipe with the recipes that it builds on folded in: group choices, and the values that differ from them."""

    name: str
    file: Path
    choices: dict[str, str] = field(default_factory=dict)
    """Option by group choice (`model`, `data@eval.data`), in the order of the defaults list."""
    nested: dict[str, str] = field(default_factory=dict)
    """Options of groups inside other groups (`override algo/kl: loss` in the file)."""
    values: dict[str, Any] = field(default_factory=dict)
    """Values, nested as in the file, interpolations as they were written."""
    searchpath: list[str] = field(default_factory=list)
    """Further folders with groups (`hydra.searchpath`), absolute."""
    bases: list[RecipeFile] = field(default_factory=list)
    """The recipes that this one builds on."""

    def defaults(self) -> list[Any]:
        """The defaults list for Hydra."""
        nested = [{f"override {group}": option} for group, option in self.nested.items()]
        return [ROOT, *({choice: option} for choice, option in self.choices.items()), *nested]


def is_path(recipe: str) -> bool:
    """Whether `recipe=` names a file rather than a shipped recipe."""
    return recipe.endswith((".yaml", ".yml"))


def find_recipe(recipe: str) -> Path:
    """The file of `recipe=NAME` or `recipe=path.yaml`. Raises UserError naming the nearest recipe."""
    if is_path(recipe):
        file = Path(os.path.expanduser(recipe)).absolute()
        if not os.path.isfile(file):  # of a name that no file can have, Path.is_file raises
            folder_of_it = " (it is a folder)" if os.path.isdir(file) else ""
            raise UserError(f"recipe={recipe}: there is no such file{folder_of_it}")
        return file
    file = recipes_dir() / f"{recipe}.yaml"
    if not os.path.isfile(file):
        known = shipped_recipes()
        hint = did_you_mean(nearest(recipe, known)) or "."
        path = f" (a file of your own is given with its ending: recipe={recipe}.yaml)" if recipe else ""
        raise UserError(f"recipe={recipe}: no such recipe{hint} Available: {', '.join(known)}{path}")
    return file


def shipped_recipes() -> list[str]:
    """Names of the recipes that come with rlscale."""
    folder = recipes_dir()
    return sorted(str(file.relative_to(folder).with_suffix("")) for file in folder.rglob("*.yaml"))


def read_recipe(file: Path, inside: tuple[Path, ...] = ()) -> RecipeFile:
    """Read a recipe and those that it builds on. Raises UserError naming the file."""
    if file in inside:
        raise UserError(
            f"{file}: builds on itself, by way of {' and '.join(str(f) for f in inside[1:]) or 'its defaults'}"
        )
    content = _load(file)
    recipe = RecipeFile(name=_name(file), file=file)
    has_root, chosen = False, set[str]()
    for kind, key, option in _entries(file, content.pop("defaults", None)):
        if kind == "base":
            has_root = has_root or key == ROOT
            if key != ROOT:
                _build_on(recipe, read_recipe(_base(file, key), (*inside, file)))
                has_root = True
        elif kind == "override":
            (recipe.choices if key in recipe.choices else recipe.nested)[key] = option
        else:
            recipe.choices[key] = option
        if kind != "base":
            if key in chosen:
                raise UserError(f"{file}: {key} is chosen twice in defaults; leave one of them out")
            chosen.add(key)
    if not has_root:
        raise UserError(f"{file}: a recipe's defaults list begins with {ROOT} (or with the recipe that it builds on)")
    recipe.searchpath += [folder(url, file.parent) for url in _searchpath(file, content.pop("hydra", None))]
    anchor_values(content, file.parent)
    _refuse_stranded(recipe, content)
    recipe.values = merged(recipe.values, content)
    return recipe


def leaves(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted key, value) of everything in a nested mapping; an empty mapping is a value."""
    for key, value in values.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and value:
            yield from leaves(value, name + ".")
        else:
            yield name, value


def nested(values: Mapping[str, Any]) -> dict[str, Any]:
    """The nested mapping of values by dotted key: what `leaves` takes apart."""
    result: dict[str, Any] = {}
    for name, value in values.items():
        *path, last = name.split(".")
        inner = result
        for part in path:
            inner = inner.setdefault(part, {})
        inner[last] = value
    return result


def merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """`below` with the values of `above` put over it, mappings merged."""
    result = dict(below)
    for key, value in above.items():
        old = result.get(key)
        result[key] = merged(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return result


def folder(url: str, base: Path) -> str:
    """The folder of a `hydra.searchpath` entry, a relative one taken from `base`."""
    return str((base / os.path.expanduser(url.removeprefix("file://"))).absolute())


def covers(key: str, other: str) -> bool:
    """Whether `other` is `key` itself or lies inside it."""
    return other == key or other.startswith(key + ".")


def stranded(recipe: RecipeFile, choices: Mapping[str, str], given: set[str]) -> list[tuple[str, dict[str, Any]]]:
    """Choices that replace one of the recipe's while the recipe still sets values inside, with those values.

    A value that is `given` anew is not stranded.
    """
    found = []
    for choice, option in choices.items():
        if {**recipe.choices, **recipe.nested}.get(choice) == option:
            continue
        inside = {
            key: value
            for key, value in leaves(recipe.values)
            if covers(section(choice), key) and not any(covers(other, key) for other in given)
        }
        if inside:
            found.append((choice, inside))
    return found


def _build_on(recipe: RecipeFile, base: RecipeFile) -> None:
    recipe.choices.update(base.choices)
    recipe.nested.update(base.nested)
    recipe.values = merged(recipe.values, base.values)
    recipe.searchpath += base.searchpath
    recipe.bases = [*recipe.bases, base]


def _load(file: Path) -> dict[str, Any]:
    content = read_yaml(file)
    if content is not None and not isinstance(content, dict):
        raise UserError(f"{file}: a recipe is a mapping with a defaults list, not a list or a single value")
    return {str(key): value for key, value in (content or {}).items()}


def _searchpath(file: Path, hydra: Any) -> list[str]:
    """`hydra.searchpath` of a recipe, the one part of Hydra's own configuration that acts here."""
    if hydra is None:
        return []
    if not isinstance(hydra, dict):
        raise UserError(f"{file}: hydra: {hydra} has no effect here; only hydra.searchpath, a list of folders, has")
    if others := sorted(str(key) for key in hydra if key != "searchpath"):
        raise UserError(f"{file}: hydra.{others[0]} has no effect here; only hydra.searchpath has")
    folders = hydra.get("searchpath") or []
    if not isinstance(folders, list) or not all(isinstance(url, str) for url in folders):
        raise UserError(f"{file}: hydra.searchpath: {folders} is not a list of folders; write [folder, ...]")
    return folders


def _entries(file: Path, defaults: Any) -> Iterator[tuple[str, str, str]]:
    """(kind, key, option) of a defaults list; kind is base, choice or override."""
    if not isinstance(defaults, list):
        raise UserError(f"{file}: a recipe begins with a defaults list: the groups that it chooses from, {ROOT} first")
    if "_self_" in defaults[:-1]:
        raise UserError(f"{file}: _self_ must be the last entry of defaults, so that the recipe's own values win")
    for entry in defaults:
        if entry == "_self_":
            continue
        if isinstance(entry, str):
            yield "base", entry, ""
            continue
        if not isinstance(entry, dict) or len(entry) != 1:
            raise UserError(f"{file}: {entry!r} in defaults is neither a recipe nor `group: option`")
        ((words, option),) = entry.items()
        *marks, key = str(words).split() or [""]
        if option is None:
            continue
        if not isinstance(option, str) or not key or set(marks) - {"override", "optional"}:
            raise UserError(f"{file}: `{words}: {option}` in defaults; an entry is `group: option`")
        yield ("override" if "override" in marks else "choice"), key.lstrip("/"), option


def _base(file: Path, name: str) -> Path:
    beside = file.parent / f"{name}.yaml"
    if os.path.isfile(beside) and beside != file:
        return beside
    if beside == file and name not in shipped_recipes():
        raise UserError(f"{file}: builds on itself: defaults names {name}; leave it out")
    try:
        return find_recipe(name)
    except UserError as error:
        raise UserError(f"{file}: defaults: {error}") from None


def _name(file: Path) -> str:
    """A shipped recipe is named by its place under recipes/, any other by its file."""
    try:
        return str(file.relative_to(recipes_dir()).with_suffix(""))
    except ValueError:
        return file.stem


def _refuse_stranded(recipe: RecipeFile, content: Mapping[str, Any]) -> None:
    """A recipe that changes a choice of its base must say what becomes of the base's values inside that group."""
    given = {key for key, _ in leaves(content)}
    for base in recipe.bases:
        problems = [
            f"{recipe.file}: builds on {base.name}, which sets {listed(values)}, but chooses another {choice}; "
            "set those values too, or list the groups instead of building on it"
            for choice, values in stranded(base, {**recipe.choices, **recipe.nested}, given)
            if choice in base.choices or choice in base.nested
        ]
        if problems:
            raise ConfigError(problems)


def listed(values: Mapping[str, Any]) -> str:
    """`key=value` pairs in one line."""
    return ", ".join(f"{key}={value}" for key, value in values.items())

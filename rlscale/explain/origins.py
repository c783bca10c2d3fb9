"""Where the values of a configuration come from: the schema, an option's file, a recipe, or the command line."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlscale.config.composition import overrides as command_line
from rlscale.config.composition.compose import compose_node, searchpath_of
from rlscale.config.composition.debug_option import GROUP
from rlscale.config.composition.groups import Groups, section
from rlscale.config.composition.locations import conf_dir, recipes_dir
from rlscale.config.composition.recipe_file import DEFAULT, RecipeFile, covers, find_recipe, leaves, read_recipe
from rlscale.config.composition.yaml_file import read_yaml
from rlscale.explain.yaml_lines import lines_of

COMMAND_LINE = "the command line"


@dataclass(frozen=True)
class Origin:
    """One place that sets a key."""

    place: str
    """`the command line`, or the file with its line."""
    choice: str
    """The group choice (`algo=grpo`) whose option sets it; empty for a recipe and the command line."""
    value: Any
    """As it is written there; interpolations too."""

    @property
    def heading(self) -> str:
        """The choice, or the place without its line: what values are listed under."""
        return self.choice or self.place.partition(".yaml:")[0] + (".yaml" if ".yaml:" in self.place else "")


class Origins:
    """Everything that sets keys of one composed configuration, from the lowest precedence to the highest.

    The order is that of composing: options of groups inside other groups, the options around them, recipes from the
    lowest base on, `debug=`, the command line from left to right.
    """

    def __init__(self, recipe: str | None, overrides: Sequence[str]) -> None:
        """Raises what `compose` raises."""
        self.composition = compose_node(recipe, overrides)
        self._groups = Groups.of(searchpath_of(recipe, overrides))
        self._file = read_recipe(find_recipe(DEFAULT if recipe is None else recipe))
        self._debug = self.composition.over
        self._given = command_line.parse(self.composition.overrides, self._groups)
        by_options = list(self._by_options())
        by_recipes = [*self._by_recipes(self._file), *self._by_debug()]
        self.all = [*by_options, *_seeds_of_evaluation(by_options), *by_recipes, *self._by_command_line()]

    def of(self, key: str) -> list[Origin]:
        """What sets a key, the last one being what holds; empty where the schema's default does."""
        return [origin for name, origin in self.all if name == key]

    def chosen_by(self, choice: str) -> str:
        """Who chose the option of a group, in words."""
        if choice in self._given.choices:
            return COMMAND_LINE
        if self._debug is not None and choice in self._debug.option.choices:
            return shown(self._debug.option.file)
        for recipe in (self._file, *_bases(self._file)):
            if (line := _choice_line(recipe.file, choice)) is not None:
                return f"{shown(recipe.file)}:{line}"
        outer = choice.partition("@")[0].rpartition("/")[0]
        option = self.composition.node.run.groups.get(outer) if outer else None
        return f"{outer}={option}" if option else "the schema"

    def _by_options(self) -> Iterator[tuple[str, Origin]]:
        chosen: Mapping[str, str] = self.composition.node.run.groups
        for choice in sorted(chosen, key=lambda name: (-name.count("/"), name)):
            option = chosen[choice]
            file = self._groups.file(choice.partition("@")[0], option)
            if file is not None:
                yield from self._by_file(file, section(choice), f"{choice}={option}")

    def _by_file(self, file: Path, inside: str, choice: str) -> Iterator[tuple[str, Origin]]:
        """The values of an option's file, those that it builds on first."""
        content = read_yaml(file) or {}
        for entry in content.pop("defaults", None) or ():
            other = file.parent / f"{entry}.yaml"
            if isinstance(entry, str) and other.is_file() and other != file:
                yield from self._by_file(other, inside, choice)
        lines = lines_of(file)
        for key, value in leaves(content):
            yield f"{inside}.{key}", Origin(f"{shown(file)}:{lines[key]}", choice, value)

    def _by_recipes(self, recipe: RecipeFile) -> Iterator[tuple[str, Origin]]:
        for base in recipe.bases:
            yield from self._by_recipes(base)
        content = read_yaml(recipe.file) or {}
        lines = lines_of(recipe.file)
        for key, value in leaves(content):
            dropped = any(covers(other, key) for other in self._given.dropped)
            dropped = dropped or (self._debug is not None and self._debug.takes_over(key))
            if not dropped and not covers("defaults", key) and not covers("hydra", key):
                yield key, Origin(f"{shown(recipe.file)}:{lines[key]}", "", value)

    def _by_debug(self) -> Iterator[tuple[str, Origin]]:
        if self._debug is None:
            return
        file = self._debug.option.file
        lines, choice = lines_of(file), f"{GROUP}={file.stem}"
        for inside, key, value in self._debug.values:
            inner = leaves(value, f"{key}.") if isinstance(value, Mapping) else [(key, value)]
            yield from ((name, Origin(f"{shown(file)}:{lines[inside]}", choice, item)) for name, item in inner)

    def _by_command_line(self) -> Iterator[tuple[str, Origin]]:
        for key, value in self._given.values:
            inner = leaves(value, f"{key}.") if isinstance(value, Mapping) and value else [(key, value)]
            for name, item in inner:
                yield name, Origin(COMMAND_LINE, "", item)


def _seeds_of_evaluation(by_options: Sequence[tuple[str, Origin]]) -> Iterator[tuple[str, Origin]]:
    """Composing gives the sources of evaluation the seed 0 where their option follows `run.seed`."""
    for key, origin in by_options:
        if key.startswith("eval.") and key.endswith("data.seed") and str(origin.value).startswith("${"):
            yield key, Origin("composing, so that runs of every seed are measured on the same problems", "", 0)


def shown(file: Path) -> str:
    """A shipped file by its place in the project, another by its path."""
    for folder in (conf_dir(), recipes_dir()):
        if file.is_relative_to(folder):
            return f"{folder.name}/{file.relative_to(folder)}"
    return str(file)


def _bases(recipe: RecipeFile) -> Iterator[RecipeFile]:
    for base in reversed(recipe.bases):
        yield base
        yield from _bases(base)


def _choice_line(file: Path, choice: str) -> int | None:
    """The line on which a recipe's defaults list chooses an option of that group; None where it does not."""
    entries = (read_yaml(file) or {}).get("defaults") or ()
    for number, entry in enumerate(entries):
        named = [str(words).split()[-1].lstrip("/") for words in entry] if isinstance(entry, dict) else []
        if choice in named:
            return lines_of(file)[f"defaults.{number}"]
    return None

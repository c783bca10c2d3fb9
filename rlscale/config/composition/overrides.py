"""The command line's overrides, in Hydra's own grammar: group choices, values, and values of the recipe to drop."""

from __future__ import annotations

import copy
import functools
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, Quote, QuotedString
from hydra.errors import HydraException

from rlscale.config.composition.chosen_model import GROUP, chosen_model
from rlscale.config.composition.command_line_text import printable
from rlscale.config.composition.groups import Groups, section
from rlscale.config.composition.recipe_file import folder


@dataclass
class Overrides:
    """What the command line asks for."""

    choices: dict[str, str] = field(default_factory=dict)
    """Option by group choice."""
    values: list[tuple[str, Any]] = field(default_factory=list)
    """(dotted key, value) in the order given; a later one wins."""
    dropped: list[str] = field(default_factory=list)
    """Keys whose value in the recipe is not taken (`~key`)."""
    problems: list[str] = field(default_factory=list)
    """One line for each override that cannot be used."""


SEARCHPATH = "hydra.searchpath"


def searchpath(overrides: Sequence[str]) -> list[str]:
    """Folders of `hydra.searchpath=[...]` on the command line, absolute. What cannot be read is left to `parse`."""
    found = [parse_one(text, []) for text in overrides if text.startswith(SEARCHPATH)]
    lists = [override.value() for override in found if override is not None]
    return [folder(url, Path.cwd()) for urls in lists if isinstance(urls, list) for url in urls]


def parse(overrides: Sequence[str], groups: Groups) -> Overrides:
    """Read overrides; what is wrong with them is in `problems`."""
    result = Overrides()
    for text in overrides:
        override = parse_one(text, result.problems)
        if override is not None:
            _sort_in(override, text, groups, result)
    return result


def parse_one(text: str, problems: list[str]) -> Override | None:
    """One override by Hydra's grammar, or None and a line in `problems`.

    A value that the grammar does not know and that can only be a text (`~/runs`, `Grüße`) is that text.
    """
    try:
        return _parsed(text)
    except (HydraException, UnicodeEncodeError):
        quoted = quote(text)
    if quoted is not None and _PLAIN.fullmatch(text.partition("=")[2]):
        return _parsed(quoted)
    if "=" not in text:
        problems.append(f"{printable(text)}: cannot be read (options are written key=value)")
    elif quoted is None or printable(text) != text:
        problems.append(f"{printable(text)}: cannot be read, because of its special characters")
    else:
        problems.append(
            f"{text}: cannot be read, because of its special characters; if it is one text, write {shlex.quote(quoted)}"
        )
    return None


def quote(text: str) -> str | None:
    """The override with its value in quotes, so that it is text whatever it holds; None if that is not an override."""
    key, sign, value = text.partition("=")
    quoted = f"{key}{sign}{QuotedString(text=value, quote=Quote.double).with_quotes()}"
    try:
        override = _parsed(quoted)
    except (HydraException, UnicodeEncodeError):
        return None
    return quoted if sign and override.value() == value else None


_PLAIN = re.compile(r"[^\s,=\[\](){}\'\"\\$]([^,=\[\](){}\'\"\\$\n]*[^\s,=\[\](){}\'\"\\$])?")
"""Values without a character that means something to Hydra: no list, mapping, call, quote, escape, interpolation."""


parser = functools.cache(OverridesParser.create)
"""Hydra's parser, which looks through its functions for as long as it parses a text."""


def _parsed(text: str) -> Override:
    return copy.deepcopy(_once_parsed(text))


@functools.lru_cache(maxsize=1024)
def _once_parsed(text: str) -> Override:
    """The runs of a sweep, and the layouts that `plan --solve` tries, share most of their overrides."""
    text.encode()  # a command line may hold bytes that are not text; YAML could not hold them
    (override,) = parser().parse_overrides([text])
    return override


def _sort_in(override: Override, text: str, groups: Groups, result: Overrides) -> None:
    key = override.key_or_group
    choice = f"{key}@{override.package}" if override.package else key
    if not key:
        result.problems.append(f"{text}: names no key; options are written key=value")
    elif override.is_sweep_override():
        result.problems.append(f"{text}: several values at once are a sweep; add -m to run them one after the other")
    elif key == "recipe":
        result.problems.append(f"{text}: the recipe is chosen once, by its name or by a path that ends in .yaml")
    elif key.split(".")[0].split("/")[0] == "hydra":
        if key != SEARCHPATH or not isinstance(override.value(), list):
            result.problems.append(
                f"{text}: has no effect here; of Hydra's own options only hydra.searchpath=[...] has"
            )
    elif override.is_delete():
        result.dropped.append(section(choice))
    elif override.package or "/" in key or key in groups.names:
        option = override.value()
        if choice == GROUP and (chosen := chosen_model(option, groups)) is not None:
            option, more = chosen
            result.values[:0] = more  # explicit keys win, also those that were given before
        problem = groups.problem(choice, option)
        before = next((other for other in result.choices if section(other) == section(choice)), None)
        if problem is None and before is not None:
            result.problems.append(
                f"{text}: {section(choice)} is chosen twice, the other time by {before}={result.choices[before]}; "
                "leave one of them out"
            )
        elif problem is None:
            result.choices[choice] = str(option)
        else:
            result.problems.append(problem)
    else:
        result.values.append((key, override.value()))


def given_keys(overrides: Overrides) -> set[str]:
    """Keys that the command line sets itself; a section in braces counts as a whole."""
    return {key for key, _ in overrides.values} | set(overrides.dropped)


def conflict(recipe: str, choice: str, option: str, values: dict[str, Any]) -> str:
    """The line for a group choice that would leave the recipe's values for another option standing."""
    listed = ", ".join(f"{key}={value}" for key, value in values.items())
    return (
        f"{choice}={option}: recipe {recipe} sets {listed} for another {section(choice)} option; give your own value "
        f"for each, or drop the recipe's with '~{next(iter(values)) if len(values) == 1 else section(choice)}'"
    )

"""The words of a command line that every command has: its help, and which run is meant, by a recipe and overrides."""

from __future__ import annotations

from collections.abc import Sequence

from rlscale.config.errors import UserError
from rlscale.config.shown import say

_RECIPE = "recipe="


def help_is_shown(words: Sequence[str], usage: str) -> bool:
    """Whether a command is asked for its help, which is printed then and is all that it does."""
    asked = any(word in ("-h", "--help") for word in words)
    if asked:
        say(usage)
    return asked


def recipe_and_overrides(words: Sequence[str], command: str | None = None) -> tuple[str | None, list[str]]:
    """The recipe that is named (None: the default one), and the other words.

    `command`: whose words these are, if it has no options (left) that they could be. Raises UserError for an option
    then, and for a second recipe.
    """
    if command is not None and (flags := [word for word in words if word.startswith("-")]):
        raise UserError(f"{command} does not know {flags[0]!r}; see python -m rlscale {command} --help")
    recipes = [word.removeprefix(_RECIPE) for word in words if word.startswith(_RECIPE)]
    if len(recipes) > 1:
        raise UserError(f"{_RECIPE}{recipes[1]}: the recipe is given twice")
    return (recipes[0] if recipes else None), [word for word in words if not word.startswith(_RECIPE)]

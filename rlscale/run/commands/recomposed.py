"""A recipe composed once more with other overrides, as commands do that look at a run after it."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from rlscale.config.composition.compose import compose
from rlscale.config.composition.groups import Groups
from rlscale.config.composition.overrides import given_keys, parse
from rlscale.config.composition.recipe_file import find_recipe, read_recipe, stranded
from rlscale.config.errors import UserError
from rlscale.config.schema import Config


def recompose(recipe: str | None, overrides: Sequence[str], replaceable: Collection[str]) -> Config:
    """The recipe with overrides. Where they choose another option of a `replaceable` group, its values for it go."""
    if recipe is None:
        return compose(None, overrides)
    file = read_recipe(find_recipe(recipe))
    given = parse(list(overrides), Groups.of([*file.searchpath, str(file.file.parent)]))
    dropped = [
        f"~{key}"
        for choice, inside in stranded(file, given.choices, given_keys(given))
        if choice in replaceable
        for key in inside
    ]
    return compose(recipe, [*overrides, *dropped])


def taken_apart(command: str, arguments: Sequence[str], own: Collection[str]) -> tuple[dict[str, str], list[str]]:
    """What is the command's own (`own` are its keys), and what is the configuration's. UserError for an option."""
    found: dict[str, str] = {}
    overrides = []
    for word in arguments:
        key, _, value = word.partition("=")
        if word.startswith("-"):
            raise UserError(f"{command} does not know {word!r}; see python -m rlscale {command} --help")
        if key not in own:
            overrides.append(word)
        elif key in found or not value:
            raise UserError(f"{word}: give {key}=... once, with a value")
        else:
            found[key] = value
    return found, overrides

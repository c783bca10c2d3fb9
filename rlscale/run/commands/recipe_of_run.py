"""The recipe that lies in a run's folder, composed for a command that looks at the run. It may be somebody else's.

What it runs is run only where the command line says so, too: word for word, or all of it by `--trust-run`.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path

from rlscale.config.checks.check_context import CheckContext
from rlscale.config.checks.data_and_reward import model_has_a_plain_name
from rlscale.config.checks.ranges import out_of_range
from rlscale.config.composition.groups import Groups
from rlscale.config.composition.overrides import parse, parse_one, quote
from rlscale.config.composition.recipe_file import covers, leaves
from rlscale.config.derived.sizes import Sizes
from rlscale.config.errors import ConfigError
from rlscale.config.keys import keys
from rlscale.config.named_code import Named, named_code
from rlscale.config.schema import Config
from rlscale.config.shown import say_error
from rlscale.run.commands.recomposed import recompose

TRUST_RUN = "--trust-run"
Runs = Callable[[str], bool]
"""Whether a command runs what stands under a key."""


def trusted(arguments: Sequence[str]) -> tuple[bool, list[str]]:
    """Whether the command line trusts the run with everything, and its other words."""
    return TRUST_RUN in arguments, [word for word in arguments if word != TRUST_RUN]


def compose_of_run(
    run: Path, overrides: Sequence[str], replaceable: Collection[str], runs: Runs, *, trust: bool, repeats: bool = True
) -> Config:
    """The run's recipe with overrides (see `recompose`), whose values are in range and whose model has a plain name.

    ConfigError with a line for everything that the command would run by the word of that recipe alone, unless it is
    trusted. `repeats`: whether the command takes any key, so that what is meant can be typed once more.
    """
    recipe = run / "recipe.yaml"
    config = recompose(str(recipe), overrides, replaceable)
    if problems := list(out_of_range(keys(config))):
        raise ConfigError(problems)
    if problems := list(model_has_a_plain_name(CheckContext(config, Sizes.of(config), None))):
        raise ConfigError(problems)
    said = _said(overrides)
    named = [one for one in named_code(config) if runs(one.key) and not any(covers(key, one.key) for key in said)]
    if named and not trust:
        raise ConfigError([_refusal(one, recipe, repeats) for one in named])
    return config


def tell_code(config: Config, runs: Runs) -> None:
    """Say what a command is about to run; for those that do not check the whole configuration."""
    for one in named_code(config):
        if runs(one.key):
            say_error(f"note: {one.line}")


def _said(overrides: Sequence[str]) -> set[str]:
    """The keys whose values are the command line's own. Of a mapping those in it: others are merged into it."""
    return {key for name, value in parse(overrides, Groups.of()).values for key in _leaves(name, value)}


def _leaves(name: str, value: object) -> Iterator[str]:
    if isinstance(value, Mapping):
        yield from (key for key, _ in leaves({str(key): inner for key, inner in value.items()}, f"{name}."))
    else:
        yield name


def _refusal(one: Named, recipe: Path, repeats: bool) -> str:
    word = _word(one) if repeats else None
    again = f"add {word}, or {TRUST_RUN}" if word is not None else f"add {TRUST_RUN}"
    return f"{one.line}; so says {recipe}, and not the command line: if you trust it, {again}"


def _word(one: Named) -> str | None:
    """What says the same on a command line; None where nothing does."""
    plain = f"{one.key}={'true' if one.value is True else one.value}"
    if one.value is None or any(part.isdigit() for part in one.key.split(".")):
        return None
    override = parse_one(plain, [])
    word = plain if override is not None and override.value() == one.value else quote(plain)
    return None if word is None else shlex.quote(word)

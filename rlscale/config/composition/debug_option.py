"""`debug=NAME`: the run of a command line, changed so that it can be debugged.

An option is a file of `conf/debug/` (or of `debug/` beside a recipe). It wins over the recipe and over what stands
before it on the command line; what stands after it wins over the option.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from enum import Enum
from pathlib import Path
from typing import Any

from omegaconf import MISSING, DictConfig, OmegaConf

from rlscale.config.composition.assignment import known_keys
from rlscale.config.composition.groups import Groups, section
from rlscale.config.composition.overrides import parse
from rlscale.config.composition.published_configs import architecture_of
from rlscale.config.composition.recipe_file import RecipeFile, covers, leaves, merged, nested
from rlscale.config.composition.yaml_file import read_yaml
from rlscale.config.errors import ConfigError, UserError
from rlscale.config.nearest import did_you_mean, nearest_key
from rlscale.config.schema.model_config import ModelConfig
from rlscale.families.shrunk import shrunk

GROUP = "debug"
_SHRUNK = "shrunk"
CHARACTERS = "\n" + "".join(chr(code) for code in range(32, 127))
"""What the tokenizer of a shrunk model knows: the printable characters of ASCII, and the end of a line."""


@dataclass(frozen=True)
class DebugOption:
    """What an option's file says."""

    file: Path
    choices: dict[str, str]
    """Group options in place of the recipe's."""
    values: dict[str, Any]
    """Values by dotted key."""
    at_most: dict[str, float]
    """Numbers by dotted key: what the run has, where that is less."""
    of_shrunk: dict[str, Any]
    """Values of a run whose model is shrunk."""
    drops: list[str]
    """Keys and sections of which nothing that was set is taken over."""
    keeps: list[str]
    """Keys inside them that stay as they would have been without the option."""
    model: str | None
    """`shrunk`: a small random model of the family of the run's own, unless that is made at random anyway."""


@dataclass(frozen=True)
class Overlay:
    """An option over one run."""

    option: DebugOption
    groups: Groups
    chosen: dict[str, str]
    """Options by group choice that stand before it on the command line."""
    values: list[tuple[str, str, Any]]
    """(key in the option's file, dotted key, value) of all that it sets."""

    def takes_over(self, key: str) -> bool:
        """Whether a value set by the recipe, or before the option, holds no longer."""
        sections = [*self.option.drops, *map(section, self.option.choices), *(name for _, name, _ in self.values)]
        return any(covers(one, key) for one in sections)

    def over(self, recipe: RecipeFile) -> RecipeFile:
        """The recipe with the option over it."""
        own = {key: value for key, value in leaves(recipe.values) if not self.takes_over(key)}
        # Choices before the option are the recipe's from here on: what it sets inside their sections is meant for them.
        chosen = {**self.chosen, **self.option.choices}
        inner = {key: option for key, option in chosen.items() if self.groups.inside(key)}
        outer = {key: option for key, option in chosen.items() if key not in inner}
        values = merged(nested(own), nested({key: value for _, key, value in self.values}))
        choices, within = {**recipe.choices, **outer}, {**recipe.nested, **inner}
        return replace(recipe, choices=choices, nested=within, values=values, bases=[])

    def still_given(self, overrides: Sequence[str]) -> list[str]:
        """Of the overrides before the option, the values that hold beside it."""
        kept = []
        for text in overrides:
            given = parse([text], self.groups)
            keys = [*given.dropped, *(key for key, _ in given.values)]
            if not given.choices and not any(self.takes_over(key) for key in keys):
                kept.append(text)
        return kept


def split(overrides: Sequence[str]) -> tuple[list[str], str | None, list[str]]:
    """What stands before `debug=NAME`, the name (None without one), and what stands after it.

    Raises UserError for a second one.
    """
    places = [at for at, text in enumerate(overrides) if text.startswith(f"{GROUP}=")]
    if len(places) > 1:
        raise UserError(f"{overrides[places[1]]}: {overrides[places[0]]} is given, too; one at a time")
    if not places:
        return list(overrides), None, []
    at = places[0]
    return list(overrides[:at]), overrides[at].partition("=")[2], list(overrides[at + 1 :])


def read_debug_option(name: str, groups: Groups) -> DebugOption:
    """Read an option. Raises UserError for one that does not exist or is not understood."""
    if problem := groups.problem(GROUP, name):
        raise UserError(problem)
    file = groups.file(GROUP, name)
    assert file is not None
    content = read_yaml(file) or {}
    known: dict[str, Callable[[], Any]] = {
        "choices": dict,
        "values": dict,
        "at_most": dict,
        "of_shrunk": dict,
        "drops": list,
        "keeps": list,
        "model": str,
    }
    for key, value in content.items():
        if key not in known or type(value) is not known[key]:
            raise UserError(f"{file}: {key}: {value}; a debug option has {', '.join(known)}")
    if content.get("model") not in (None, _SHRUNK):
        raise UserError(f"{file}: model: {content['model']}; may be {_SHRUNK}")
    given = {key: content.get(key, make()) for key, make in known.items() if key != "model"}
    return DebugOption(file=file, model=content.get("model"), **given)


def overlay(option: DebugOption, groups: Groups, before: Sequence[str], usual: DictConfig) -> Overlay:
    """An option over the run whose configuration is `usual` without it; `before`: what stands before it.

    Raises ConfigError for choices and keys that do not exist, UserError for a model that is not known.
    """
    if problems := list(_problems(option, groups, usual)):
        raise ConfigError(problems)
    return Overlay(option, groups, parse(before, groups).choices, list(_values(option, usual)))


def _problems(option: DebugOption, groups: Groups, usual: DictConfig) -> Iterator[str]:
    for choice, chosen in option.choices.items():
        if problem := groups.problem(choice, chosen):
            yield f"{option.file}: {problem}"
    known = set(known_keys(usual))
    sections = {name.rpartition(".")[0] for name in known}
    for key in (*option.values, *option.at_most, *option.of_shrunk, *option.drops, *option.keeps):
        # Inside of a mapping, as trainer.megatron is, there may be anything.
        above = [name for name in known - sections if covers(name, key)]
        if key not in known and not above:
            yield f"{option.file}: {key}: unknown key{did_you_mean(nearest_key(key, known))}"


def _values(option: DebugOption, usual: DictConfig) -> Iterator[tuple[str, str, Any]]:
    for key, value in option.values.items():
        if value != MISSING or _value(usual, key) is None:  # what is left to the user may have been given
            yield f"values.{key}", key, value
    for number, key in enumerate(option.keeps):
        kept = _value(usual, key)
        yield f"keeps.{number}", key, kept.name if isinstance(kept, Enum) else kept
    for key, most in option.at_most.items():
        here = _value(usual, key)
        yield f"at_most.{key}", key, most if here is None else min(most, here)
    if option.model and (model := _small_model(usual)):
        yield from (("model", key, value) for key, value in model.items())
        yield from ((f"of_shrunk.{key}", key, value) for key, value in option.of_shrunk.items())


def _value(node: DictConfig, key: str) -> Any:
    """The value of a key; None also where it has none, or stands in a section that is not there."""
    above, _, name = key.rpartition(".")
    parent = OmegaConf.select(node, above) if above else node
    return None if parent is None or OmegaConf.is_missing(parent, name) else parent[name]


def _small_model(usual: DictConfig) -> dict[str, Any]:
    """Values of a made model in the place of the one that the run would train; none where that is made anyway."""
    names = {item.name for item in fields(ModelConfig)} - {"create"}
    given = {name: usual.model[name] for name in names if not OmegaConf.is_missing(usual.model, name)}
    if given.get("path") is None:
        return {}
    architecture = shrunk(architecture_of(ModelConfig(**given)))
    return {
        "model.name": f"tiny_{given.get('name', architecture['model_type'])}",
        "model.path": None,
        "model.init": None,
        "model.tokenizer": None,
        "model.chat_template": None,
        "model.parameters": None,
        "model.dtype": "float32",
        "model.create.characters": CHARACTERS,
        "model.create.architecture": architecture,
        **({"model.lora.path": None, "model.lora.targets": None} if usual.model.get("lora") is not None else {}),
    }

"""Composing a configuration: recipe and overrides to one typed, read-only tree, with every mistake named at once.

Hydra composes the groups. The values of the recipe and of the command line are then put in one by one instead of in
Hydra's single merge, which would stop at the first mistake and name no alternative.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import MISSING, DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from rlscale.config.composition import debug_option
from rlscale.config.composition import overrides as command_line
from rlscale.config.composition.assignment import assign, hints, takes
from rlscale.config.composition.containers import unusable_containers
from rlscale.config.composition.groups import Groups, section, with_options
from rlscale.config.composition.locations import conf_dir
from rlscale.config.composition.missing_values import left_open, missing_keys
from rlscale.config.composition.node_copy import copy_of
from rlscale.config.composition.option_file import read_options
from rlscale.config.composition.paths import anchor_section, anchored, path_kind
from rlscale.config.composition.quick_loader import JobLoader, QuickLoader
from rlscale.config.composition.recipe_file import (
    DEFAULT,
    RecipeFile,
    covers,
    find_recipe,
    leaves,
    nested,
    read_recipe,
    stranded,
)
from rlscale.config.composition.store import register_schema
from rlscale.config.composition.typed_values import typed
from rlscale.config.composition.yaml_text import dump
from rlscale.config.environment_values import environment_of
from rlscale.config.errors import ConfigError, UserError
from rlscale.config.keys import plain
from rlscale.config.named_code import refused_targets
from rlscale.config.schema import Config

_PRIMARY = "rlscale_recipe"
_SET_BY_COMPOSING = {"run.groups": "groups are chosen with group=option", "run.environment": "leave it out"}


@dataclass
class Composition:
    """A composed configuration before it is closed: what `--cfg` prints."""

    recipe: RecipeFile
    node: DictConfig
    """All values, typed by the schema; keys without a value are still missing."""
    hydra: DictConfig | None
    """Hydra's own part, where it was asked for."""
    overrides: Sequence[str]
    """Of the command line, what holds: all of it but for what `debug=` takes over, and that itself."""
    over: debug_option.Overlay | None = None
    """What `debug=` changes, where it is given; the recipe is the one so changed."""


def compose(recipe: str | None = None, overrides: Sequence[str] = ()) -> Config:
    """The configuration of a recipe (name or path; None is the default recipe) with overrides, read-only.

    Types, unknown keys and options are checked; `rlscale.config.checks.check` looks at what the values mean together.
    Raises ConfigError with one line per problem, UserError when the recipe cannot be read.
    """
    return close(compose_node(recipe, overrides))


def compose_node(recipe: str | None = None, overrides: Sequence[str] = (), *, hydras: bool = False) -> Composition:
    """Like `compose`, but open: keys that nobody set are missing, interpolations are not resolved.

    `hydras`: with Hydra's own configuration, which takes most of the time then.
    """
    file = read_recipe(find_recipe(DEFAULT if recipe is None else recipe))
    if debug_option.GROUP in file.choices:
        raise ConfigError(f"{file.file}: {debug_option.GROUP} is chosen on the command line, not in a recipe")
    before, debug, after = debug_option.split(overrides)
    if debug is None:
        return _compose(file, overrides, hydras)
    groups = Groups.of(_searchpath(file, overrides))
    usual = _compose(file, before, hydras=False).node
    over = debug_option.overlay(debug_option.read_debug_option(debug, groups), groups, before, usual)
    return replace(_compose(over.over(file), [*over.still_given(before), *after], hydras), over=over)


def _compose(file: RecipeFile, overrides: Sequence[str], hydras: bool) -> Composition:
    searchpath = _searchpath(file, overrides)
    groups = Groups.of(searchpath)
    given = command_line.parse(overrides, groups)
    problems = [
        f"{file.file}: {problem}"
        for choice, option in {**file.choices, **file.nested}.items()
        if (problem := groups.problem(choice, option))
    ]
    values, undropped = _drop(file, given.dropped)
    kept = RecipeFile(file.name, file.file, file.choices, file.nested, values)
    for choice, inside in stranded(kept, given.choices, command_line.given_keys(given)):
        given.problems.append(command_line.conflict(file.name, choice, given.choices[choice], inside))
    problems += [*given.problems, *undropped]
    if problems:
        raise ConfigError(problems)
    composed = compose_groups(file.defaults(), given.choices, searchpath, set(file.choices), hydras=hydras)
    node = composed.node
    _anchor_options(node, composed.chosen, groups)
    for key, value in leaves(values):
        problems += [f"{file.file}: {problem}" for problem in assign(node, key, value, groups)]
    for key, value in given.values:
        problems += assign(node, key, value, groups)
    for key, instead in _SET_BY_COMPOSING.items():
        if any(covers(key, other) for other in (*dict(leaves(values)), *dict(given.values))):
            problems.append(f"{key}: is set by composing; {instead}")
    if OmegaConf.is_missing(node, "run") or OmegaConf.is_interpolation(node, "run"):
        problems.append("run: is a section with keys of its own; set run.<key>=...")
    if problems:
        raise ConfigError(problems)
    if OmegaConf.is_missing(node.run, "recipe"):
        node.run.recipe = file.name
    return Composition(file, node, composed.hydra, overrides)


def searchpath_of(recipe: str | None, overrides: Sequence[str]) -> list[str]:
    """The folders besides rlscale's own in which the options of a command line are looked for."""
    return _searchpath(read_recipe(find_recipe(DEFAULT if recipe is None else recipe)), overrides)


def _searchpath(file: RecipeFile, overrides: Sequence[str]) -> list[str]:
    return [*command_line.searchpath(overrides), *file.searchpath, str(file.file.parent)]


@dataclass
class ComposedGroups:
    """What the chosen options make, before any value of a recipe or a command line."""

    node: DictConfig
    chosen: dict[str, str]
    """Option by group choice, those that options choose included."""
    hydra: DictConfig | None
    """Hydra's own configuration, where it was asked for."""


def compose_groups(
    defaults: list[Any], choices: Mapping[str, str], searchpath: Sequence[str], top: set[str], *, hydras: bool = False
) -> ComposedGroups:
    """Let Hydra compose a defaults list with other choices; `top` are the choices that the list itself makes.

    `hydras`: with Hydra's own configuration. Raises ConfigError.
    """
    if not hydras:  # which would print them
        searchpath = with_options(searchpath)
    groups = Groups.of(searchpath)
    read_options({**_chosen_by(defaults), **choices}, groups)
    # A group that the recipe leaves out is added; Hydra would ask for a "+" there. A group inside another one
    # (algo/loss) is in the defaults list of the outer option.
    texts = [
        f"{choice}={option}" if choice in top or groups.inside(choice) else f"+{choice}={option}"
        for choice, option in choices.items()
    ]
    made = _composed(json.dumps(defaults), tuple(texts), tuple(searchpath), groups.stamps(), hydras)
    return ComposedGroups(copy_of(made.node), dict(made.chosen), None if made.hydra is None else copy_of(made.hydra))


@functools.lru_cache(maxsize=256)
def _composed(
    defaults: str,
    texts: tuple[str, ...],
    searchpath: tuple[str, ...],
    stamps: tuple[tuple[str, int], ...],
    hydras: bool,
) -> ComposedGroups:
    """Hydra's part, which takes most of the time and is the same for the runs of a sweep that differ in values only.

    `defaults` as JSON; `stamps` of the files that it reads stand for what they hold. What it returns is kept: to be
    copied, not changed.
    """
    register_schema()
    entries = [*json.loads(defaults), "_self_"]
    try:
        if hydras:
            node, choices, own = _with_hydras(entries, list(texts), searchpath)
        else:
            own = None
            node, choices = JobLoader(conf_dir(), searchpath, entries, made=_PRIMARY).compose(texts)
    except (HydraException, OmegaConfBaseException, ValueError) as error:  # ValueError: entries of a defaults list
        raise ConfigError(_one_line(error)) from error
    chosen = {str(key): str(option) for key, option in choices.items() if not str(key).startswith("hydra/")}
    for key in left_open(chosen, Groups.of(searchpath)):
        OmegaConf.update(node, key, MISSING)
    sets = [one.data for one in node.eval.sets.values() if not OmegaConf.is_missing(one, "data")]
    for data in (node.eval.data, *sets):
        if data is not None and OmegaConf.is_interpolation(data, "seed"):
            # The option's own value, meant for training: a sweep over run.seed would measure each on other problems.
            data.seed = 0
    node.run.groups = chosen
    return ComposedGroups(node, chosen, own)


def _with_hydras(
    defaults: list[Any], texts: list[str], searchpath: Sequence[str]
) -> tuple[DictConfig, Mapping[Any, Any], DictConfig]:
    """What the defaults list and the texts choose, the option of each group, and Hydra's own configuration."""
    folders = [f"file://{folder}" for folder in searchpath]
    ConfigStore.instance().store(name=_PRIMARY, node={"defaults": defaults, "hydra": {"searchpath": folders}})
    with hydra.initialize_config_dir(str(conf_dir()), job_name="rlscale", version_base="1.3"):
        begun = GlobalHydra.instance()
        assert begun.hydra is not None
        begun.hydra.config_loader = QuickLoader(begun.config_loader().get_search_path(), made=_PRIMARY)
        node = hydra.compose(_PRIMARY, overrides=texts, return_hydra_config=True)
    own = OmegaConf.masked_copy(node, "hydra")
    with open_dict(node):
        del node["hydra"]
    return node, own.hydra.runtime.choices, own


def close(composition: Composition) -> Config:
    """The read-only configuration. Raises ConfigError for keys without a value, interpolations without a target
    and code that may not be run."""
    try:
        config = typed(composition.node)
    except OmegaConfBaseException as error:
        missing = list(_missing_values(composition))
        raise ConfigError(missing or f"{error.full_key}: {_one_line(error)}") from error
    assert isinstance(config, Config)
    if problems := list(unusable_containers(config, hints)):
        raise ConfigError(problems)
    config.run.environment = environment_of(composition.node)
    if refused := refused_targets(config):
        raise ConfigError(refused)
    anchor_section(config, Path.cwd())
    config.freeze()
    return config


def printed(composition: Composition, part: str, *, section: str | None = None, resolve: bool = False) -> str:
    """YAML of a composition as Hydra's `--cfg job|hydra|all` prints it, or of one section of it.

    Raises UserError for a section that is not there, ConfigError for an interpolation without a target.
    """
    parts = {"job": (composition.node,), "hydra": (composition.hydra,), "all": (composition.hydra, composition.node)}
    node: Any = OmegaConf.merge(*filter(None, parts[part]))
    try:
        if section is not None:
            node = OmegaConf.select(node, section)
            if node is None:
                raise UserError(f"--package {section}: the configuration has nothing there")
            if not OmegaConf.is_config(node):
                return f"{node}\n"
        return dump(OmegaConf.to_container(node, resolve=resolve, enum_to_str=True))
    except OmegaConfBaseException as error:
        raise ConfigError(f"{error.full_key}: {_one_line(error)}") from error


def _drop(file: RecipeFile, dropped: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """The recipe's values without the dropped keys, and a line for each key that it does not set."""
    problems = []
    for key in dropped:
        if not any(covers(key, name) for name, _ in leaves(file.values)):
            problems.append(f"~{key}: recipe {file.name} sets no value of {key} that could be dropped")
    kept = {name: value for name, value in leaves(file.values) if not any(covers(key, name) for key in dropped)}
    return nested(kept), problems


def _anchor_options(node: DictConfig, chosen: Mapping[str, str], groups: Groups) -> None:
    """Paths that a user's option file sets start from the folder of its file."""
    for choice, option in chosen.items():
        group = choice.partition("@")[0]
        file = None if groups.ships(group, option) else groups.file(group, option)
        if file is None:
            continue
        inside = OmegaConf.select(node, section(choice))
        if not isinstance(inside, DictConfig):
            continue
        written = dict(leaves(plain(OmegaConf.to_container(inside, resolve=False)), f"{section(choice)}."))
        for key, value in written.items():
            if (kind := path_kind(key)) is not None and (path := anchored(value, kind, file.parent)) != value:
                OmegaConf.update(node, key, path)


def _chosen_by(defaults: Sequence[Any]) -> dict[str, str]:
    """Options by group choice of a defaults list for Hydra."""
    entries = [(words, option) for entry in defaults if isinstance(entry, dict) for words, option in entry.items()]
    return {words.removeprefix("override "): option for words, option in entries}


def _missing_values(composition: Composition) -> Iterator[str]:
    """A line for each key that has no value."""
    node, groups = composition.node, Groups.of([str(composition.recipe.file.parent)])
    for key in sorted(missing_keys(node)):
        if (choice := groups.at(key)) is not None:
            options = ", ".join(groups.options(choice.partition("@")[0]))
            yield f"{key}: is not chosen; add {choice}=<option>, one of {options}"
        else:
            yield f"{key}: has no value; give {key}=... ({takes(node, key)})"


def _one_line(error: BaseException) -> str:
    """Hydra's message without its stack of causes and its indented lines of context."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    shown = [line for line in lines if not line.startswith(("full_key:", "object_type=", "reference_type="))]
    return " ".join(shown).replace("raised while composing config: ", "")

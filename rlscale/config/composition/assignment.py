"""Putting one value into the composed configuration, with an error that says what the key takes."""

from __future__ import annotations

import functools
import types
from collections.abc import Iterator, Mapping
from dataclasses import fields
from enum import Enum
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from rlscale.config.composition.command_line_text import as_typed
from rlscale.config.composition.containers import name_problem
from rlscale.config.composition.groups import Groups
from rlscale.config.composition.schemas_of_options import options_with
from rlscale.config.nearest import ELSEWHERE, did_you_mean, nearest, nearest_key
from rlscale.config.schema.section import Section, following


def assign(root: DictConfig, key: str, value: Any, groups: Groups) -> list[str]:
    """Set `key` to `value`; a mapping is merged into a section. Returns one line per problem."""
    parts = key.split(".")
    node = root
    for depth, part in enumerate(parts[:-1]):
        here = ".".join(parts[: depth + 1])
        if _element(node) is not None and (problem := name_problem(".".join(parts[:depth]), part)) is not None:
            return [problem]
        child = _enter(node, part)
        if child is None:
            if _hint(node, part) is None:
                return [_unknown(root, key, groups)]
            choice = groups.at(here)
            return [f"{key}: {here} is not chosen yet; add {choice}=..." if choice else f"{key}: {here} holds no keys"]
        node = child
    return _set(root, node, key, parts[-1], value, groups)


def takes(root: DictConfig, key: str) -> str:
    """What the key takes, in words; `key` must exist."""
    section, _, name = key.rpartition(".")
    node = OmegaConf.select(root, section) if section else root
    return describe(_hint(node, name))


def known_keys(node: Any, prefix: str = "") -> Iterator[str]:
    """Every key that the schema of this node (or section type) has, sections included."""
    kind: Any = OmegaConf.get_type(node) if isinstance(node, DictConfig) else node
    if isinstance(node, DictConfig) and _element(node) is not None:
        for name in map(str, node):
            yield from known_keys(node._get_node(name), f"{prefix}{name}.")
    if not _is_section(kind):
        return
    for name, hint in hints(kind).items():
        yield prefix + name
        child = node._get_node(name) if isinstance(node, DictConfig) else None
        filled = isinstance(child, DictConfig) and not child._is_none() and not child._is_missing()
        yield from known_keys(child if filled else section_type(hint), f"{prefix}{name}.")


def describe(hint: Any) -> str:
    """What a key of this type takes, in words."""
    if get_origin(hint) is Annotated:  # a value of several types, which says so itself
        return str(hint.__metadata__[0])
    inner = [part for part in get_args(hint) if part is not type(None)]
    if get_origin(hint) in (Union, types.UnionType):
        return f"{describe(inner[0])} or null"
    if get_origin(hint) is list:
        return f"a list, each entry {describe(inner[0])}"
    if get_origin(hint) is dict:
        return "a mapping"
    if isinstance(hint, type) and issubclass(hint, Enum):
        return f"one of {', '.join(hint.__members__)}"
    if isinstance(hint, type) and issubclass(hint, Section):
        return "a section"
    return {int: "an integer", float: "a number", bool: "true or false", str: "text"}.get(hint, "a value")


def _set(root: DictConfig, node: DictConfig, key: str, name: str, value: Any, groups: Groups) -> list[str]:
    if _element(node) is not None:
        if (problem := name_problem(key.removesuffix(f".{name}"), name)) is not None:
            return [problem]
        if not isinstance(value, Mapping):
            return [f"{key}={as_typed(value)}: is a section with keys of its own; set {key}.<key>=..."]
        child = _enter(node, name)
        assert child is not None  # an open mapping takes any name
        return [
            p for inner, item in value.items() for p in _set(root, child, f"{key}.{inner}", str(inner), item, groups)
        ]
    if _is_open(node):
        with open_dict(node):
            OmegaConf.update(node, name, value, merge=True, force_add=True)
        return []
    hint = _hint(node, name)
    if hint is None:
        return [_unknown(root, key, groups)]
    if isinstance(value, Mapping) and (section_type(hint) or get_origin(hint) is dict):
        child = _enter(node, name)
        if child is None:
            return [f"{key}: is not chosen yet; add {groups.at(key)}=..."]
        return [
            p for inner, item in value.items() for p in _set(root, child, f"{key}.{inner}", str(inner), item, groups)
        ]
    try:
        if hint is bool and not isinstance(value, bool | str):
            raise TypeError
        node[name] = value
    except (OmegaConfBaseException, TypeError, ValueError):
        return [_wrong_type(key, value, hint, groups)]
    return []


def _enter(node: DictConfig, name: str) -> DictConfig | None:
    """The section `name` inside node, made where it is null; None where there is no such section."""
    if _is_open(node):
        with open_dict(node):
            if not isinstance(node.get(name), DictConfig):
                kind = _element(node)
                node[name] = {} if kind is None else kind()
        child = node[name]
        assert isinstance(child, DictConfig)
        return child
    hint = _hint(node, name)
    if hint is None or OmegaConf.is_missing(node, name):
        return None
    kind = None if get_origin(hint) is dict else section_type(hint)
    if OmegaConf.is_interpolation(node, name):
        # It follows another section. From now on it is one of its own, and only the values inside follow.
        values = OmegaConf.to_container(node, resolve=False)
        assert isinstance(values, dict)
        node[name] = following(kind, str(values[name])[2:-1]) if kind is not None else {}
    elif node[name] is None:
        if kind is None or (kind.__subclasses__()):  # which of its kinds it is, only a group option can say
            return None
        node[name] = kind()
    child = node[name]
    return child if isinstance(child, DictConfig) else None


def _unknown(root: DictConfig, key: str, groups: Groups) -> str:
    known = list(known_keys(root))
    if choices := options_with(key, groups, known):
        return f"{key}: is not a key of the chosen option; choose {' or '.join(choices)}"
    section, _, name = key.rpartition(".")
    familiar = ELSEWHERE.get(name)
    if familiar and familiar not in known and (choices := options_with(familiar, groups)):
        return f"{key}: unknown key; did you mean {familiar}, of {' or '.join(choices)}?"
    guess = nearest_key(key, (candidate for candidate in known if not key.startswith(f"{candidate}.")))
    message = f"{key}: unknown key{did_you_mean(guess)}"
    elsewhere, _, meant = (guess or "").rpartition(".")
    if f"{section}.arguments" in known and elsewhere != section and meant != name:
        message += f"{' A' if guess else '; a'}rguments of the class {section}._target_ go under {section}.arguments"
    return message


def _wrong_type(key: str, value: Any, hint: Any, groups: Groups) -> str:
    if section_type(hint) is not None:
        choice = groups.at(key)
        how = f"; choose an option with {_option(choice, value, groups)}" if choice else f"; set {key}.<key>=..."
        return f"{key}={as_typed(value)}: {key} is a section with keys of its own{how}"
    kind = next((part for part in (hint, *get_args(hint)) if isinstance(part, type) and issubclass(part, Enum)), None)
    guess = did_you_mean(nearest(str(value), kind.__members__)) if kind else ""
    return f"{key}={as_typed(value)}: must be {describe(hint)}{guess}"


def _option(choice: str, value: Any, groups: Groups) -> str:
    """The option that was probably meant."""
    options = groups.options(choice.partition("@")[0])
    if str(value) in options:
        return f"{choice}={value}"
    guess = nearest(str(value), options)
    return f"{choice}=<option>" + (f"; did you mean {choice}={guess}?" if guess else f": {', '.join(options)}")


def _is_open(node: DictConfig) -> bool:
    return not _is_section(_kind(node))


def _kind(node: DictConfig) -> Any:
    """`OmegaConf.get_type` of a mapping, without its look at what else the node could be."""
    return None if node._is_none() or node._is_missing() else node._metadata.object_type


def _is_section(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, Section)


def _element(node: DictConfig) -> type[Section] | None:
    """The type of the sections in a mapping of names to sections; None for anything else."""
    kind = node._metadata.element_type
    return kind if _is_open(node) and _is_section(kind) else None


def section_type(hint: Any) -> type[Section] | None:
    """The section type that a field holds, through `| None`."""
    for part in (hint, *get_args(hint)):
        if isinstance(part, type) and issubclass(part, Section):
            return part
    return None


def _hint(node: DictConfig, name: str) -> Any:
    kind = _kind(node)
    return hints(kind).get(name) if _is_section(kind) else None


def hints(kind: type[Any]) -> dict[str, Any]:
    """Types of the fields of a section, by name."""
    section: Any = kind  # to mypy the class of a dataclass without a hash has none itself
    return _hints(section)


@functools.cache
def _hints(kind: type) -> dict[str, Any]:
    found = get_type_hints(kind, include_extras=True)
    return {item.name: found[item.name] for item in fields(kind)}

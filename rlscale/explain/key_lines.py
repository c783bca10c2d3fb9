"""The explanation of a key in lines."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import MISSING
from typing import Any

from omegaconf import MISSING as OPEN
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from rlscale.config.composition.assignment import describe, hints, known_keys
from rlscale.config.composition.command_line_text import as_typed
from rlscale.config.composition.groups import section
from rlscale.config.derived.derived_options import DERIVED
from rlscale.config.errors import UserError
from rlscale.config.keys import plain
from rlscale.config.nearest import did_you_mean, nearest
from rlscale.config.passthrough import KINDS, Option, known_options
from rlscale.config.schema.about import Scope, about
from rlscale.explain.field_docs import meaning
from rlscale.explain.key_units import unit
from rlscale.explain.located_key import LocatedKey, locate, value_at
from rlscale.explain.origins import Origins
from rlscale.explain.readers import Reader, readers

_SCOPES = {
    Scope.result: "runs that differ in it are different runs",
    Scope.execution: "another value computes the same",
    Scope.this_run: "of this run alone: no part of the recipe",
}
_LONGEST = 12
"""Readers that are listed; a key that more files read is one that is read everywhere."""


def key_lines(keys: Sequence[str], origins: Origins) -> Iterator[str]:
    """Everything that is known of each key. Raises UserError for one that does not exist."""
    found = [locate(origins.composition.node, key) for key in keys]
    for number, key in enumerate(found):
        if number:
            yield ""
        yield from _section_lines(key, origins) if key.section is not None else _value_lines(key, origins)


def _section_lines(key: LocatedKey, origins: Origins) -> Iterator[str]:
    """A section: its meaning, the option that fills it, and its keys."""
    node = origins.composition.node
    yield f"{key.name}: {_meaning(key) or 'a section with a name of your own'}"
    for choice, option in node.run.groups.items():
        if section(choice) == key.name:
            yield f"  is {choice}={option}, by {origins.chosen_by(choice)}"
    below = [name for name in known_keys(node) if name.rpartition(".")[0] == key.name]
    for name in below:
        inner = locate(node, name)
        value = "" if inner.section is not None else f" = {shown_value(value_at(node, name))}"
        yield f"  {name}{value}  # {_meaning(inner)}"


def _value_lines(key: LocatedKey, origins: Origins) -> Iterator[str]:
    said = list(_about(key, origins))  # first: it raises where there is no such option
    yield f"{key.name} = {_here(key.name, origins)}"
    yield from (f"  {line}" for line in said)
    places = origins.of(key.name)
    for number, origin in enumerate(reversed(places)):
        word = "before that" if number else "set by"
        option = f", the option {origin.choice}" if origin.choice else ""
        value = f": {shown_value(origin.value)}" if number else ""
        yield f"  {word} {origin.place}{option}{value}"
    if not places and _setter(key) is None:
        yield f"  set by nobody: {_unset(key, origins)}"
    if key.field is not None:
        yield from _readers(readers(key.key, key.kind))


def _unset(key: LocatedKey, origins: Origins) -> str:
    if "${" in str(value_at(origins.composition.node, key.name)):
        return "it follows the other key"
    if key.inside and (key.field is None or about(key.field).options is None):
        return "it has the default of the class or function that takes it"
    return f"{'the package' if key.inside else 'the schema'}'s default"


def _about(key: LocatedKey, origins: Origins) -> Iterator[str]:
    """Meaning, type, bounds and default, in the words of the schema or of the package whose option it is."""
    if key.inside:
        yield from _option_lines(key, origins)
        return
    assert key.field is not None
    said = about(key.field)
    yield _meaning(key)
    default = "none" if key.default in (MISSING, OPEN) else shown_value(key.default)
    bounds = f", {said.bounds.words}" if said.bounds is not None and said.bounds.words else ""
    kind = describe(hints(key.kind)[key.field.name])
    counted = unit(key.name, kind, _meaning(key))
    yield f"{kind}{bounds}{f'; unit: {counted}' if counted else ''}; default {default}"
    yield _SCOPES[_scope(key, origins)]


def _scope(key: LocatedKey, origins: Origins) -> Scope:
    """Its own, or that of a section around it: a key of one that decides nothing decides nothing either."""
    parts = key.key.split(".")
    around = [locate(origins.composition.node, ".".join(parts[:depth])).field for depth in range(1, len(parts) + 1)]
    scopes = [about(field).scope for field in around if field is not None]
    return next((scope for scope in scopes if scope is not Scope.result), Scope.result)


def _option_lines(key: LocatedKey, origins: Origins) -> Iterator[str]:
    """An option of an installed package, or an argument of a class of one's own."""
    kind = about(key.field).options if key.field is not None else None
    if kind is None:
        yield f"inside {key.key}: {_meaning(key)}"
        return
    option = _option(key, kind)
    yield f"{option.meaning or 'the package says nothing of it'}"
    types = f"{' or '.join(option.types)}; " if option.types else ""
    yield f"an option of {KINDS[kind].distribution} ({KINDS[kind].cls}); {types}default {option.default or 'none'}"
    if setter := _setter(key):
        yield f"set by {setter}, and cannot be given here too"


def _setter(key: LocatedKey) -> str | None:
    """The key of rlscale's that an option of a package follows; None where it is the user's."""
    kind = about(key.field).options if key.field is not None else None
    return DERIVED[kind].get(key.inside) if key.inside and kind is not None else None


def _option(key: LocatedKey, kind: str) -> Option:
    """Raises UserError where the package has no such option, or is not installed."""
    kinds = ("transformer", "latent_transformer") if kind == "transformer" else (kind,)
    known = {name: option for one in kinds for name, option in (known_options(one) or {}).items()}
    if not known:
        raise UserError(f"{key.name}: {KINDS[kind].distribution} is not installed here, so its options are not known")
    if key.inside not in known:
        guess = did_you_mean(nearest(key.inside, known))
        raise UserError(f"{key.name}: {KINDS[kind].cls} of {KINDS[kind].distribution} has no such option{guess}")
    return known[key.inside]


def _readers(found: Sequence[Reader]) -> Iterator[str]:
    for kind, checks in (("read", False), ("checked", True)):
        some = [one for one in found if one.checks is checks]
        for one in some[:_LONGEST]:
            said = f": {one.says}" if one.says else ""
            yield f"  {kind} by {one.file}:{one.line} {one.function}{said}".rstrip()
        if len(some) > _LONGEST:
            yield f"  and {kind} in {len(some) - _LONGEST} further places"


def _meaning(key: LocatedKey) -> str:
    return meaning(key.kind, key.field.name) if key.field is not None else ""


def _here(key: str, origins: Origins) -> str:
    """The value; of one that follows another key, both."""
    node = origins.composition.node
    value = value_at(node, key)
    if not (isinstance(value, str) and "${" in value):
        return shown_value(value)
    try:
        return f"{shown_value(OmegaConf.select(node, key))}, following {value}"
    except OmegaConfBaseException:
        return f"{value}, which has no value yet"


def shown_value(value: Any) -> str:
    """A value as it is typed on the command line."""
    return "(not given)" if value is MISSING else as_typed(plain(value))

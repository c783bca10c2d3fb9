"""Types of the arguments of tools: the JSON schema of each, and the value that a call's JSON stands for."""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Mapping, Sequence
from enum import Enum
from typing import (
    Any,
    Literal,
    NewType,
    NotRequired,
    Required,
    Union,
    get_args,
    get_origin,
    get_type_hints,
    is_typeddict,
)

from jsonschema import Draft202012Validator

from rlscale.config.errors import UserError

_PLAIN = {str: "string", int: "integer", float: "number", bool: "boolean", type(None): "null"}
_KNOWN = "str, int, float, bool, list, dict, Literal, an Enum, a dataclass, a TypedDict or None"


def schema_of(hint: Any, where: str, inside: tuple[Any, ...] = ()) -> dict[str, Any]:
    """The JSON schema of a type. UserError if JSON does not hold it; `inside`: the types that this one is a part of."""
    if hint in inside:
        raise UserError(f"{where}: {hint.__name__} contains itself; a tool's arguments have an end")
    if hint is Any:
        return {}
    if hint in _PLAIN:
        return {"type": _PLAIN[hint]}
    if isinstance(hint, NewType):
        return schema_of(hint.__supertype__, where, inside)
    if isinstance(hint, type) and issubclass(hint, Enum):
        return {"enum": _values(hint, where)}
    if (fields := _fields(hint)) is not None:
        properties = {name: schema_of(of, f"{where}.{name}", (*inside, hint)) for name, (of, _) in fields.items()}
        required = [name for name, (_, needed) in fields.items() if needed]
        return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}
    origin, inner = get_origin(hint), get_args(hint)
    if origin is Literal:
        return {"enum": list(inner)}
    if origin in (Union, types.UnionType):
        return {"anyOf": [schema_of(one, where, inside) for one in inner]}
    if (origin or hint) in (list, Sequence):
        return {"type": "array"} | ({"items": schema_of(inner[0], where, inside)} if inner else {})
    if (origin or hint) in (dict, Mapping) and (not inner or inner[0] is str):
        return {"type": "object"} | ({"additionalProperties": schema_of(inner[1], where, inside)} if inner else {})
    raise UserError(f"{where} is of type {getattr(hint, '__name__', str(hint))}; use {_KNOWN}")


def value_of(hint: Any, given: Any) -> Any:
    """What a method with a parameter of this type expects for JSON that is valid under its schema."""
    if isinstance(hint, NewType):
        return value_of(hint.__supertype__, given)
    if hint is int:
        return int(given)  # 3.0 is an integer of JSON
    if isinstance(hint, type) and issubclass(hint, Enum):
        return hint(given)
    if (fields := _fields(hint)) is not None:
        named = {name: value_of(fields[name][0], value) for name, value in given.items()}
        return named if is_typeddict(hint) else hint(**named)
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        fitting = (one for one in inner if Draft202012Validator(schema_of(one, "")).is_valid(given))
        return value_of(next(fitting), given)
    if origin in (list, Sequence):
        return [value_of(inner[0], one) for one in given]
    if origin in (dict, Mapping):
        return {name: value_of(inner[1], one) for name, one in given.items()}
    return given


def _fields(hint: Any) -> dict[str, tuple[Any, bool]] | None:
    """Type of each field of a dataclass or a TypedDict, and whether it must be given; None for another type."""
    if is_typeddict(hint):
        # Where annotations are text, only they tell what Required and NotRequired say.
        said = {name: get_origin(of) for name, of in get_type_hints(hint, include_extras=True).items()}
        needed = {name for name in said if name in hint.__required_keys__} - {n for n in said if said[n] is NotRequired}
        return {name: (of, name in needed or said[name] is Required) for name, of in get_type_hints(hint).items()}
    if not (isinstance(hint, type) and dataclasses.is_dataclass(hint)):
        return None
    hints, missing = get_type_hints(hint), dataclasses.MISSING
    return {
        one.name: (hints[one.name], one.default is missing and one.default_factory is missing)
        for one in dataclasses.fields(hint)
        if one.init
    }


def _values(hint: type[Enum], where: str) -> list[Any]:
    values = [member.value for member in hint]
    if not values or not all(isinstance(value, str | int | float | bool) for value in values):
        raise UserError(f"{where}: the values of {hint.__name__} must be text or numbers, as JSON has them")
    return values

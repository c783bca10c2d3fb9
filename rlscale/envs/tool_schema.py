"""The public methods of a class as tools: their JSON schemas, from signatures and docstrings."""

from __future__ import annotations

import inspect
import re
import types
from collections.abc import Callable, Mapping
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from rlscale.config.errors import UserError

BEGIN = "begin"
"""A method of this name is not a tool: it is given the prompt and the seed before the first turn."""
_PLAIN = {str: "string", int: "integer", float: "number", bool: "boolean", type(None): "null"}
_ARGUMENT = re.compile(r"^\s+\*{0,2}(\w+)(?:\s*\([^)]*\))?:\s*(.*)$|^\s*:param\s+(?:\w+\s+)?(\w+):\s*(.*)$")
_HEADING = re.compile(r"^\s*(Args|Arguments|Parameters|Returns|Raises|Yields|Examples?|Notes?):\s*$")


def tools_of(tools: type) -> dict[str, dict[str, Any]]:
    """The schema of each public method of the class, by its name, as chat templates take it.

    UserError naming a method without a docstring, or a parameter without a type that JSON can hold.
    """
    found = {}
    for name, method in inspect.getmembers(tools, inspect.isfunction):
        if not name.startswith("_") and name != BEGIN:
            found[name] = _schema(tools, name, method)
    if not found:
        raise UserError(f"{tools.__name__} has no public method that could be a tool")
    return found


def _schema(tools: type, name: str, method: Callable[..., Any]) -> dict[str, Any]:
    where = f"{tools.__name__}.{name}"
    text = inspect.getdoc(method)
    if not text:
        raise UserError(f"{where} has no docstring; the policy is told what a tool does by it")
    hints = get_type_hints(method)
    bound = not isinstance(inspect.getattr_static(tools, name), staticmethod)
    parameters = list(inspect.signature(method).parameters.values())[bound:]
    described = _described(text)
    properties: dict[str, Any] = {}
    for one in parameters:
        if one.kind in (one.VAR_POSITIONAL, one.VAR_KEYWORD, one.POSITIONAL_ONLY):
            raise UserError(f"{where}: {one} cannot be given by name; a tool's arguments are")
        if one.name not in hints:
            raise UserError(f"{where}: the parameter {one.name} has no type; annotate it")
        properties[one.name] = _type(hints[one.name], f"{where}: the parameter {one.name}")
        if one.name in described:
            properties[one.name]["description"] = described[one.name]
    arguments = {
        "type": "object",
        "properties": properties,
        "required": [one.name for one in parameters if one.default is one.empty],
        "additionalProperties": False,
    }
    function = {"name": name, "description": _summary(text), "parameters": arguments}
    return {"type": "function", "function": function}


def _type(hint: Any, where: str) -> dict[str, Any]:
    """The JSON schema of a type. UserError if JSON does not hold it."""
    if hint is Any:
        return {}
    if hint in _PLAIN:
        return {"type": _PLAIN[hint]}
    origin, inner = get_origin(hint), get_args(hint)
    if origin is Literal:
        return {"enum": list(inner)}
    if origin in (Union, types.UnionType):
        return {"anyOf": [_type(one, where) for one in inner]}
    if (origin or hint) is list:
        return {"type": "array"} | ({"items": _type(inner[0], where)} if inner else {})
    if (origin or hint) in (dict, Mapping) and (not inner or inner[0] is str):
        return {"type": "object"} | ({"additionalProperties": _type(inner[1], where)} if inner else {})
    shown = getattr(hint, "__name__", str(hint))
    raise UserError(f"{where} is of type {shown}; use str, int, float, bool, list, dict, Literal or None")


def _summary(text: str) -> str:
    """The docstring up to its list of arguments."""
    lines = []
    for line in text.splitlines():
        if _HEADING.match(line) or line.strip().startswith(":"):
            break
        lines.append(line)
    return " ".join(" ".join(lines).split())


def _described(text: str) -> dict[str, str]:
    """What the docstring says of each argument, in Google's style or with `:param`."""
    found: dict[str, str] = {}
    last, inside = "", False
    for line in text.splitlines():
        if heading := _HEADING.match(line):
            inside, last = heading[1] in ("Args", "Arguments", "Parameters"), ""
        elif (match := _ARGUMENT.match(line)) and (inside or match[3]):
            last = match[1] or match[3]
            found[last] = match[2] if match[1] else match[4]
        elif last and line.strip():
            found[last] += f" {line.strip()}"
        else:
            last = ""
    return found

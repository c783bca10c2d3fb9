"""The public methods of a class as tools: their JSON schemas, from signatures and docstrings."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator
from typing import Any, get_type_hints

from rlscale.config.errors import UserError
from rlscale.envs.tool_types import schema_of

BEGIN = "begin"
"""A method of this name is not a tool: it is given the prompt and the seed before the first turn."""
_ARGUMENT = re.compile(r"^\s+\*{0,2}(\w+)(?:\s*\([^)]*\))?:\s*(.*)$|^\s*:param\s+(?:\w+\s+)?(\w+):\s*(.*)$")
_HEADING = re.compile(r"^\s*(Args|Arguments|Parameters|Returns|Raises|Yields|Examples?|Notes?):\s*$")


def tools_of(tools: type) -> dict[str, dict[str, Any]]:
    """The schema of each public method of the class, by its name, as chat templates take it.

    UserError naming a method without a docstring, or a parameter without a type that JSON can hold.
    """
    found = {name: _schema(tools, name, method) for name, method in _methods(tools)}
    if not found:
        raise UserError(f"{tools.__name__} has no public method that could be a tool")
    return found


def argument_types(tools: type) -> dict[str, dict[str, Any]]:
    """The types of the parameters of each tool, by their names."""
    return {name: _hints(f"{tools.__name__}.{name}", method) for name, method in _methods(tools)}


def _methods(tools: type) -> Iterator[tuple[str, Callable[..., Any]]]:
    """Name and function of whatever is public and can be called."""
    for name in dir(tools):
        method = getattr(tools, name)
        if not name.startswith("_") and name != BEGIN and callable(method) and not isinstance(method, type):
            yield name, method


def _hints(where: str, method: Callable[..., Any]) -> dict[str, Any]:
    try:
        return get_type_hints(method)
    except (NameError, TypeError) as error:
        raise UserError(f"{where}: the types of its parameters cannot be found: {error}") from None


def _schema(tools: type, name: str, method: Callable[..., Any]) -> dict[str, Any]:
    where = f"{tools.__name__}.{name}"
    text = inspect.getdoc(method)
    if not text:
        raise UserError(f"{where} has no docstring; the policy is told what a tool does by it")
    if inspect.isgeneratorfunction(method) or inspect.isasyncgenfunction(method):
        raise UserError(f"{where} is a generator (it has a yield); return what the policy is to be shown")
    hints = _hints(where, method)
    bound = not isinstance(inspect.getattr_static(tools, name), (staticmethod, classmethod))
    parameters = list(inspect.signature(method).parameters.values())[bound:]
    described = _described(text)
    properties: dict[str, Any] = {}
    for one in parameters:
        if one.kind in (one.VAR_POSITIONAL, one.VAR_KEYWORD, one.POSITIONAL_ONLY):
            raise UserError(f"{where}: {one} cannot be given by name; a tool's arguments are")
        if one.name not in hints:
            raise UserError(f"{where}: the parameter {one.name} has no type; annotate it")
        properties[one.name] = schema_of(hints[one.name], f"{where}: the parameter {one.name}")
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

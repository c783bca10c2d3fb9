"""Whether a class has the methods of a protocol: that they are there, what they take, and whether they are awaited."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rlscale.config.errors import UserError
from rlscale.data.target import build_target, check_node, resolve_target


@dataclass(frozen=True)
class Method:
    """One method of a protocol, and what is wrong with that of a class."""

    name: str
    wanted: str
    """The call, as `take(self, n)`."""
    problem: str | None


def protocol_methods(target: Any, protocol: type[Any]) -> list[Method]:
    """Every method of the protocol, looked for in a class or an instance."""
    return [_method(target, name, wanted) for name, wanted in vars(protocol).items() if _is_method(name, wanted)]


def protocol_problems(target: Any, protocol: type[Any]) -> list[str]:
    """What a class or an instance lacks of a protocol, one line each."""
    found = [f"{one.name} {one.problem}" for one in protocol_methods(target, protocol) if one.problem is not None]
    if not inspect.isclass(target):
        found += [f"{name} is missing" for name in _attributes(protocol) if not hasattr(target, name)]
    return found


def check_built(node: Mapping[str, Any], key: str, protocol: type[Any], given: Sequence[str] = ()) -> None:
    """Whether the class of a node can be built with what it is given, and has the methods of the protocol.

    `given` names what a run gives besides the node's arguments; where that is nothing, an instance is built here, also
    by a function. A class that lacks a method is never built. UserError naming `key` if not.
    """
    check_node(node, key, len(given), f" (it is given {', '.join(given)})" if given else "")
    made: Any = resolve_target(node, key)
    is_class = inspect.isclass(made)
    if is_class:
        refuse_problems(made, node, key, protocol)
    if not given:
        made = build_target(node, key)
        refuse_problems(made if is_class else made(), node, key, protocol)


def build_as(node: Mapping[str, Any], key: str, protocol: type[Any]) -> Any:
    """An instance of the class that a node names, which is not built where it lacks a method of the protocol.

    UserError naming `key` for what is no class, too.
    """
    check_node(node, key)
    target = resolve_target(node, key)
    if not inspect.isclass(target):
        raise UserError(f"{key}: {node['_target_']} is a function; name a class with {_path(protocol)}'s methods")
    refuse_problems(target, node, key, protocol)
    return build_target(node, key)


def refuse_problems(made: Any, node: Mapping[str, Any], key: str, protocol: type[Any]) -> None:
    """UserError naming `key` where a class or an instance lacks something of the protocol."""
    if problems := protocol_problems(made, protocol):
        raise UserError(f"{key}: {node['_target_']} does not follow {_path(protocol)}: {'; '.join(problems)}")


def _path(protocol: type[Any]) -> str:
    return f"{protocol.__module__}.{protocol.__name__}"


def _is_method(name: str, value: Any) -> bool:
    return inspect.isfunction(value) and (not name.startswith("_") or name == "__len__")


def _attributes(protocol: type[Any]) -> list[str]:
    return [name for name in vars(protocol).get("__annotations__", {}) if not name.startswith("_")]


def _method(target: Any, name: str, wanted: Any) -> Method:
    return Method(name, f"{name}{_without_types(wanted)}", _problem(target, name, wanted))


def _problem(target: Any, name: str, wanted: Any) -> str | None:
    found = getattr(target, name, None)
    if not callable(found):
        # A class that hands everything on to another object has its methods only when it is asked.
        return None if found is None and hasattr(target, "__getattr__") else "is missing"
    parameters = list(inspect.signature(wanted).parameters.values())[1:]
    positional = [p for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
    needed = sum(p.default is p.empty for p in positional)
    named = {p.name: None for p in parameters if p.kind is p.KEYWORD_ONLY}
    unbound = inspect.isclass(target) and inspect.isfunction(inspect.getattr_static(target, name))
    try:
        signature = inspect.signature(found)
        for count in {needed, len(positional)}:
            signature.bind(*([None] * (count + unbound)), **named)
    except ValueError:  # a compiled one that does not tell
        return None
    except TypeError as error:
        return f"has the parameters {_without_types(found)}: {error}"
    if inspect.iscoroutinefunction(found) and not inspect.iscoroutinefunction(wanted):
        return "is `async def`, and is called without await; write it as `def`"
    if inspect.iscoroutinefunction(wanted) and not inspect.iscoroutinefunction(found):
        return "cannot be awaited; write it as `async def`"
    return None


def _without_types(function: Any) -> str:
    signature = inspect.signature(function)
    plain = [p.replace(annotation=p.empty) for p in signature.parameters.values()]
    return str(signature.replace(parameters=plain, return_annotation=signature.empty))

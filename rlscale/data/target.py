"""Building a user's hook from a `_target_` node, its arguments checked against the target's signature."""

from __future__ import annotations

import difflib
import functools
import importlib
import inspect
from collections.abc import Callable, Collection, Mapping
from typing import Any

from rlscale.config.errors import UserError


def resolve_target(node: Mapping[str, Any], key: str) -> Callable[..., Any]:
    """The class or function that `node["_target_"]` names. UserError naming `key` if it cannot be imported."""
    target = node.get("_target_")
    if not isinstance(target, str) or not target:
        raise UserError(f"{key}._target_ is missing; set it to the dotted path of your class or function")
    parts = target.split(".")
    for cut in range(len(parts) - 1, 0, -1):
        module_name = ".".join(parts[:cut])
        try:
            found: Any = importlib.import_module(module_name)
        except ModuleNotFoundError as error:
            # Only the path itself may be missing; a module that misses one of its own imports is another mistake.
            if error.name is not None and (module_name == error.name or module_name.startswith(error.name + ".")):
                continue
            raise UserError(f"{key}._target_={target}: importing {module_name} failed: {error}") from error
        except Exception as error:
            raise UserError(f"{key}._target_={target}: importing {module_name} failed: {error!r}") from error
        for name in parts[cut:]:
            if not hasattr(found, name):
                close = difflib.get_close_matches(name, dir(found), 1)
                hint = f"; did you mean {close[0]}?" if close else ""
                raise UserError(f"{key}._target_={target}: {module_name} has no {name}{hint}")
            found = getattr(found, name)
        if not callable(found):
            raise UserError(f"{key}._target_={target} is no class or function")
        return found
    raise UserError(f"{key}._target_={target}: no module of that name; is it on PYTHONPATH?")


def build_target(node: Mapping[str, Any], key: str, call_arguments: int = 0, call_names: Collection[str] = ()) -> Any:
    """What the node describes: an instance of its class, or its function with the node's arguments bound by name.

    `call_arguments`, `call_names`: how many positional and which named arguments a *function* is called with later.
    UserError naming `key`.<argument> for one that the target does not take (with the nearest that it does) or that is
    missing.
    """
    target = resolve_target(node, key)
    arguments = {name: value for name, value in node.items() if name != "_target_"}
    is_class = inspect.isclass(target)
    _check_arguments(target, arguments, key, 0 if is_class else call_arguments, () if is_class else call_names)
    if not is_class:
        return functools.partial(target, **arguments) if arguments else target
    try:
        return target(**arguments)
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{key}: {node['_target_']} cannot be built: {error!r}") from error


def _check_arguments(
    target: Callable[..., Any], arguments: Mapping[str, Any], key: str, positional: int, later: Collection[str]
) -> None:
    try:
        signature = inspect.signature(target)
    except (TypeError, ValueError):  # some compiled callables have none: the call itself will tell
        return
    by_position = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    taken = [p.name for p in signature.parameters.values() if p.kind in by_position][:positional] + list(later)
    named = [
        p.name
        for p in signature.parameters.values()
        if p.kind in (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY) and p.name not in taken
    ]
    takes_any = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in signature.parameters.values())
    for name in arguments:
        if name not in named and not takes_any:
            close = difflib.get_close_matches(name, named, 1)
            hint = f"did you mean {key}.{close[0]}?" if close else f"it takes {', '.join(named) or 'none'}"
            raise UserError(f"{key}.{name} is no argument of {_name(target)}; {hint}")
    try:
        signature.bind(*([None] * positional), **dict.fromkeys(later), **arguments)
    except TypeError as error:
        raise UserError(f"{key}: {_name(target)} cannot be called like this: {error}") from error


def _name(target: Callable[..., Any]) -> str:
    return f"{getattr(target, '__module__', '?')}.{getattr(target, '__qualname__', repr(target))}"

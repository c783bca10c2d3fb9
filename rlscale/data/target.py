"""Building a user's hook from a `_target_` node, its arguments checked against the target's signature."""

from __future__ import annotations

import difflib
import functools
import importlib
import inspect
import sys
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from rlscale.config.errors import UserError
from rlscale.config.foreign_code import is_pythons_own, never_run, not_allowed_here
from rlscale.config.own_targets import PACKAGE, own_refusal


def resolve_target(node: Mapping[str, Any], key: str) -> Callable[..., Any]:
    """The class or function that `node["_target_"]` names. UserError naming `key` if it cannot be imported."""
    target = node.get("_target_")
    if not isinstance(target, str) or not target:
        raise UserError(f"{key}._target_ is missing; set it to the dotted path of your class or function")
    return import_target(target, f"{key}._target_={target}")


def import_target(path: str, shown: str) -> Callable[..., Any]:
    """The class or function at a dotted path. UserError that begins with `shown` if there is none."""
    parts = path.split(".")
    if not all(part.isidentifier() for part in parts):
        raise UserError(f"{shown} is not a dotted path such as my_module.my_function")
    if (why := never_run(path)) is not None:
        raise UserError(f"{shown}: {why}")
    for cut in range(len(parts) - 1, 0, -1):
        module_name = ".".join(parts[:cut])
        found: Any = _imported(module_name, shown)
        if found is None:
            continue
        for name in parts[cut:]:
            of_class = not inspect.ismodule(found) and not inspect.isclass(found)
            if of_class and is_pythons_own(type(found).__module__.partition(".")[0]):  # a library of C, say
                what = f"{type(found).__name__} of {module_name}"
                raise UserError(f"{shown}: {name} is reached through a {what}; name a class or function of yours")
            if not hasattr(found, name):
                _refuse_module(_imported(path, shown), shown)
                close = difflib.get_close_matches(name, dir(found), 1)
                hint = f"; did you mean {close[0]}?" if close else ""
                raise UserError(f"{shown}: {module_name} has no {name}{hint}")
            found = getattr(found, name)
            _refuse_what_is_elsewhere(found, module_name, shown)
        _refuse_module(found, shown)
        if not callable(found):
            raise UserError(f"{shown} is not a class or function")
        target: Callable[..., Any] = found
        return target
    if len(parts) == 1:
        _refuse_module(_imported(path, shown), shown)
    raise UserError(f"{shown}: no module of that name; is it on PYTHONPATH?")


def _imported(name: str, shown: str) -> ModuleType | None:
    """The module of that name, None if there is none. UserError if it cannot be imported."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        # Only the path itself may be missing; a module that misses one of its own imports is another mistake.
        if error.name is not None and (name == error.name or name.startswith(error.name + ".")):
            return None
        raise UserError(f"{shown}: importing {name} failed: {error}") from error
    except (Exception, SystemExit) as error:
        raise UserError(f"{shown}: importing {name} failed: {error!r}") from error


def _refuse_what_is_elsewhere(found: Any, module_name: str, shown: str) -> None:
    """What the named module only imports is not a hook of it: a module, or code whose own name would be refused."""
    if inspect.ismodule(found) and not found.__name__.startswith(f"{module_name}."):
        raise UserError(f"{shown}: {found.__name__} is not a part of {module_name}; name a class or function of yours")
    if inspect.ismodule(found) or not callable(found):
        return
    home, name = _home(found)
    top = home.partition(".")[0]
    if top == module_name.partition(".")[0]:
        return
    if is_pythons_own(top):
        raise UserError(f"{shown}: is of {top}, which holds no hooks; name a class or function of yours")
    if not (inspect.isclass(found) or inspect.isroutine(found)):
        return  # an object is of the module that made it
    if top == PACKAGE and own_refusal(f"{home}.{name}") is not None:
        raise UserError(f"{shown}: is of {home}, which has no hooks; see docs/hooks.md and docs/components.md")
    if (why := not_allowed_here(top)) is not None:
        raise UserError(f"{shown}: {why}")


def _home(found: Any) -> tuple[str, str]:
    """The module in which something callable was written, and its name there; of an object, those of its class."""
    if isinstance(found, functools.partial):
        return _home(found.func)
    if not (inspect.isclass(found) or inspect.isroutine(found)):
        wrapped = getattr(found, "__dict__", {}).get("__wrapped__")  # as functools.lru_cache and others leave it
        return _home(wrapped) if callable(wrapped) else _home(type(found))
    home = getattr(found, "__module__", None)
    return (home, found.__name__) if home else _home(getattr(found, "__objclass__", None) or type(found))


def _refuse_module(found: Any, shown: str) -> None:
    if not inspect.ismodule(found):
        return
    own = [n for n, value in vars(found).items() if getattr(value, "__module__", None) == found.__name__]
    named = [f"{found.__name__}.{n}" for n in own if not n.startswith("_") and callable(vars(found)[n])]
    examples = f", such as {' or '.join(named[:3])}" if named else ""
    raise UserError(f"{shown} is a module; name a function or class in it{examples}")


@contextmanager
def current_folder_importable() -> Iterator[None]:
    """As with `python -m`, also for the installed `rlscale` script."""
    here = str(Path.cwd())
    if "" in sys.path or here in sys.path:
        yield
        return
    sys.path.insert(0, here)
    try:
        yield
    finally:
        sys.path.remove(here)


def build_target(node: Mapping[str, Any], key: str, call_arguments: int = 0, call_names: Collection[str] = ()) -> Any:
    """What the node describes: an instance of its class, or its function with the node's arguments bound by name.

    `call_arguments`, `call_names`: how many positional and which named arguments the function, or the instance, is
    called with later; none for an instance that is never called. UserError naming `key`.<argument> for one that the
    target does not take (with the nearest that it does) or that is missing, and `key` for what cannot be called so.
    """
    target = resolve_target(node, key)
    arguments = _arguments(node)
    is_class = inspect.isclass(target)
    _check_arguments(target, arguments, key, 0 if is_class else call_arguments, () if is_class else call_names)
    if not is_class:
        return functools.partial(target, **arguments) if arguments else target
    made: Any = target
    if (call_arguments or call_names) and not any("__call__" in vars(base) for base in made.__mro__):
        raise UserError(f"{key}: instances of {_name(target)} cannot be called; give the class a __call__")
    try:
        instance = target(**arguments)
    except UserError:
        raise
    except (Exception, SystemExit) as error:
        raise UserError(f"{key}: {node['_target_']} cannot be built: {error!r}") from error
    if call_arguments or call_names:
        _check_instance(instance, key, call_arguments, call_names)
    return instance


def instantiate(node: Mapping[str, Any], key: str, *given: Any) -> Any:
    """What the node's class or function makes of `given` and its own arguments.

    UserError, before it is called, where the node names nothing that can be imported, or arguments that it does not
    take. What it raises itself passes through.
    """
    check_node(node, key, len(given))
    return resolve_target(node, key)(*given, **_arguments(node))


def check_node(node: Mapping[str, Any], key: str, given: int = 0, shown: str = "") -> None:
    """Whether `instantiate` can call the node's target with so many positional arguments. UserError if not.

    `shown` ends the message where it cannot: what it is given.
    """
    _check_arguments(resolve_target(node, key), _arguments(node), key, given, (), shown)


def _arguments(node: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in node.items() if name != "_target_"}


def _check_instance(instance: Any, key: str, positional: int, named: Collection[str]) -> None:
    """Whether an instance can be called so. UserError naming `key` if not."""
    what = f"{key}: instances of {_name(type(instance))} cannot be called"
    if not callable(instance):
        raise UserError(f"{what}; give the class a __call__")
    try:
        signature = inspect.signature(instance)
    except (TypeError, ValueError):  # some compiled ones have none: the call itself will tell
        return
    try:
        signature.bind(*([None] * positional), **dict.fromkeys(named))
    except TypeError as error:
        raise UserError(f"{what} like this: {error}") from error


def _check_arguments(
    target: Callable[..., Any],
    arguments: Mapping[str, Any],
    key: str,
    positional: int,
    later: Collection[str],
    shown: str = "",
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
            raise UserError(f"{key}.{name} is not an argument of {_name(target)}; {hint}")
    try:
        signature.bind(*([None] * positional), **dict.fromkeys(later), **arguments)
    except TypeError as error:
        raise UserError(f"{key}: {_name(target)} cannot be called like this{shown}: {error}") from error


def _name(target: Callable[..., Any]) -> str:
    return f"{getattr(target, '__module__', '?')}.{getattr(target, '__qualname__', repr(target))}"

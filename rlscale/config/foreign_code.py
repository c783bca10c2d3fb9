"""Whose code a configuration runs. A recipe may be somebody else's: it names classes and functions, and commands.

Code of rlscale's own parts, of the current folder and of PYTHONPATH is run when it is named: whoever starts a run put
it there. Of an installed package only what the command line allows (`--allow-code=package`), never a recipe. Python's
own modules and Hydra hold no hook, and are refused. Nothing is imported here.
"""

from __future__ import annotations

import functools
import site
import sys
import sysconfig
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

from rlscale.config.keys import plain
from rlscale.config.schema import Config
from rlscale.config.schema.section import SCALARS, Section, fields_of
from rlscale.config.target_key import TARGET

_ALLOWED: ContextVar[tuple[str, ...]] = ContextVar("packages whose code may be run", default=())
"""For the length of one command: every command composes configurations, some of them several."""

OPTION = "--allow-code"
_OWN_PARTS = (
    *("algo", "data", "envs", "observe", "rollout", "trainer", "weights"),
    *("run.loops", "run.simulation.simulated_workload", "serve.engine_launcher", "serve.simulator"),
)
"""The modules of rlscale in which hooks and components are; others start processes and read files for their callers."""
_NO_HOOKS = ("data.target", "observe.atomic", "observe.jsonl")
"""Modules among them that import, call or write what they are told."""
NEVER = frozenset({*sys.stdlib_module_names, "hydra", "omegaconf", "__main__", "__mp_main__"})
"""Modules whose code is never named: `__main__` is rlscale's own command line."""


@contextmanager
def allowing_code(packages: Sequence[str]) -> Iterator[None]:
    """Within the block, configurations may name code of these installed packages."""
    token = _ALLOWED.set((*_ALLOWED.get(), *packages))
    try:
        yield
    finally:
        _ALLOWED.reset(token)


def allowed_code() -> list[str]:
    """The words of the command line that allow what is allowed now."""
    return [f"{OPTION}={package}" for package in _ALLOWED.get()]


def refusal_of(target: str) -> str | None:
    """Why what a `_target_` names may not be run; None where it may, or is not there to be run."""
    top = target.partition(".")[0]
    if top == "rlscale":
        own = target.removeprefix("rlscale.")
        if _within(own, _OWN_PARTS) and not _within(own, _NO_HOOKS):
            return None
        return "this part of rlscale has no hooks; see docs/hooks.md and docs/components.md"
    if top in NEVER:
        return f"{top} holds no hooks; name a class or function of yours"
    places = [form for place in _found(top) for form in (place, place.resolve())]
    if top in _ALLOWED.get() or not any(folder in place.parents for place in places for folder in _installed()):
        return None
    return f"is code of the installed package {top}; add {OPTION}={top} if you trust it"


def refused_targets(config: Config) -> list[str]:
    """A line for each `_target_` in a configuration that may not be run."""
    named = dict(_targets(config, ""))
    return [f"{key}={target}: {why}" for key, target in named.items() if (why := refusal_of(target)) is not None]


def code_that_runs(config: Config) -> list[str]:
    """A line for each class, function or command that is not of rlscale, and where it is."""
    lines = []
    for key, target in _targets(config, ""):
        places = () if target.startswith("rlscale.") else _found(target.partition(".")[0])
        if places:  # else nothing runs: building says that there is no such module
            lines.append(f"{key.removesuffix(f'.{TARGET}')}: runs {target} of {places[0].resolve()}")
    agent = config.agent
    commands = {"agent.command": agent.command, "agent.arguments.command": agent.arguments.get("command")}
    lines += [f"{key}: runs {command}" for key, command in commands.items() if command is not None]
    for key in ("reward", "env"):
        unguarded = _unguarded(plain(getattr(config, key)), key)
        lines += [f"{place}=none: runs what the policy writes, with your rights" for place in unguarded]
    rollout = config.rollout
    groups = {f"rollout.engine_groups.{name}": group.sglang for name, group in rollout.engine_groups.items()}
    models = {f"rollout.models.{name}": model.sglang for name, model in rollout.models.items()}
    for key, options in {"rollout": rollout.sglang, **groups, **models}.items():
        if options.get("trust_remote_code"):
            lines.append(f"{key}.sglang.trust_remote_code: engines run the code in the model's folder")
    return lines


def _targets(value: Any, key: str) -> Iterator[tuple[str, str]]:
    """Keys and values of every `_target_`, also of those inside arguments."""
    if isinstance(value, Section | Mapping):
        items = value.items() if isinstance(value, Mapping) else _values(value)
        for name, inner in items:
            if name == TARGET and isinstance(inner, str):
                yield f"{key}{name}", inner
            elif type(inner) not in SCALARS:
                yield from _targets(inner, f"{key}{name}.")
    elif isinstance(value, list | tuple):
        for number, inner in enumerate(value):
            yield from _targets(inner, f"{key}{number}.")


def _values(section: Section) -> Iterator[tuple[str, Any]]:
    return ((item.name, getattr(section, item.name)) for item in fields_of(section))


def _unguarded(value: Any, key: str) -> Iterator[str]:
    """Keys below this one that switch a sandbox off."""
    if isinstance(value, Mapping):
        for name, inner in value.items():
            if name == "sandbox" and inner == "none":
                yield f"{key}.{name}"
            yield from _unguarded(inner, f"{key}.{name}")


def _within(name: str, modules: Sequence[str]) -> bool:
    """Whether a dotted name lies inside one of the modules."""
    return any(name.startswith(f"{module}.") for module in modules)


def _found(top: str) -> list[Path]:
    """The files or folders that an import of `top`, or of what is in it, would read; several of a namespace package."""
    if not top.isidentifier():
        return []
    spec = PathFinder.find_spec(top, [str(Path.cwd()), *sys.path])
    if spec is None:
        return []
    if spec.origin not in (None, "namespace"):
        return [Path(str(spec.origin)).absolute()]
    return [Path(place).absolute() for place in spec.submodule_search_locations or ()]


@functools.cache
def _installed() -> frozenset[Path]:
    """The folders that packages are installed into."""
    folders = [*site.getsitepackages(), site.getusersitepackages(), *map(sysconfig.get_path, ("purelib", "platlib"))]
    return frozenset(Path(folder).resolve() for folder in folders)

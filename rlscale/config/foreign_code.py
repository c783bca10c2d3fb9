"""Whose code may be run when a `_target_` names it. A recipe may be somebody else's.

Code of rlscale's own parts, of the current folder and of PYTHONPATH is run when it is named: whoever starts a run put
it there. Of an installed package only what the command line allows (`--allow-code=package`), never a recipe. Python's
own modules and Hydra hold no hook, and are refused. Nothing is imported here, the schema neither: processes that
compute rewards ask, and start often.
"""

from __future__ import annotations

import functools
import site
import sys
import sysconfig
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from importlib.machinery import PathFinder
from pathlib import Path

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
    places = [form for place in places_of(top) for form in (place, place.resolve())]
    if top in _ALLOWED.get() or not any(folder in place.parents for place in places for folder in _installed()):
        return None
    return f"is code of the installed package {top}; add {OPTION}={top} if you trust it"


def places_of(top: str) -> list[Path]:
    """The files or folders that an import of `top`, or of what is in it, would read; several of a namespace package."""
    if not top.isidentifier():
        return []
    spec = PathFinder.find_spec(top, [str(Path.cwd()), *sys.path])
    if spec is None:
        return []
    if spec.origin not in (None, "namespace"):
        return [Path(str(spec.origin)).absolute()]
    return [Path(place).absolute() for place in spec.submodule_search_locations or ()]


def _within(name: str, modules: Sequence[str]) -> bool:
    """Whether a dotted name lies inside one of the modules."""
    return any(name.startswith(f"{module}.") for module in modules)


@functools.cache
def _installed() -> frozenset[Path]:
    """The folders that packages are installed into."""
    folders = [*site.getsitepackages(), site.getusersitepackages(), *map(sysconfig.get_path, ("purelib", "platlib"))]
    return frozenset(Path(folder).resolve() for folder in folders)

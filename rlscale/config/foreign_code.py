"""Whose code may be run when a `_target_` names it. A recipe may be somebody else's.

Code of the current folder, of PYTHONPATH and of packages installed in development mode is run when it is named: whoever
starts a run put it there. Of an installed package only what the command line allows (`--allow-code=package`), never a
recipe. Of rlscale itself its hooks and components (rlscale.config.own_targets). Python's own modules and Hydra hold no
hook, and are refused. What a module is, its place decides: no list of names has all that a Python comes with. Nothing
is imported here, the schema neither: processes that compute rewards ask, and start often.
"""

from __future__ import annotations

import functools
import os
import site
import sys
import sysconfig
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from importlib.machinery import BuiltinImporter, FrozenImporter, ModuleSpec, PathFinder
from pathlib import Path

from rlscale.config.own_targets import PACKAGE, own_refusal

_ALLOWED: ContextVar[tuple[str, ...] | None] = ContextVar("packages whose code may be run", default=None)
"""For the length of one command: every command composes configurations, some of them several. None in processes of a
run, which run what the command has let pass."""

OPTION = "--allow-code"
NEVER = frozenset({*sys.stdlib_module_names, "hydra", "omegaconf", "__main__", "__mp_main__"})
"""Modules whose code is never named: `__main__` is rlscale's own command line."""
_INSTALLED = ("site-packages", "dist-packages")
"""Folders that packages are installed into, by their names: those of another Python on PYTHONPATH, too."""


@contextmanager
def allowing_code(packages: Sequence[str]) -> Iterator[None]:
    """Within the block, configurations may name code of these installed packages."""
    token = _ALLOWED.set((*(_ALLOWED.get() or ()), *packages))
    try:
        yield
    finally:
        _ALLOWED.reset(token)


def allowed_code() -> list[str]:
    """The words of the command line that allow what is allowed now."""
    return [f"{OPTION}={package}" for package in _ALLOWED.get() or ()]


def refusal_of(target: str) -> str | None:
    """Why what a `_target_` names may not be run; None where it may, or is not there to be run."""
    return never_run(target) or not_allowed(target.partition(".")[0], _ALLOWED.get() or ())


def never_run(target: str) -> str | None:
    """Why what a `_target_` names may not be run, whatever the command line allows; None where that decides."""
    top = target.partition(".")[0]
    if top == PACKAGE:
        return own_refusal(target)
    return f"{top} holds no hooks; name a class or function of yours" if is_pythons_own(top) else None


def is_pythons_own(top: str) -> bool:
    """Whether a top-level name is a module that a Python comes with (its tests and examples, too), or one of Hydra."""
    if top in NEVER or any(finder.find_spec(top) is not None for finder in (BuiltinImporter, FrozenImporter)):
        return True
    return any(_is_below(place, _standard()) and not _is_installed(place) for place in _judged_places(top))


def not_allowed(top: str, allowed: Sequence[str]) -> str | None:
    """Why code of a top-level module may not be run: it is installed, and the command line does not allow it."""
    if top in allowed or not any(map(_is_installed, _judged_places(top))):
        return None
    return f"is code of the installed package {top}; add {OPTION}={top} if you trust it"


def not_allowed_here(top: str) -> str | None:
    """As `not_allowed`, within a command; None in a process of a run, which runs what the command has let pass."""
    allowed = _ALLOWED.get()
    return None if allowed is None else not_allowed(top, allowed)


def places_of(top: str) -> list[Path]:
    """The files or folders that an import of `top`, or of what is in it, would read; several of a namespace package."""
    if not top.isidentifier():
        return []
    spec = PathFinder.find_spec(top, [str(Path.cwd()), *sys.path]) or _found_otherwise(top)
    if spec is None:
        return []
    if spec.has_location and spec.origin is not None:
        return [Path(spec.origin).absolute()]
    return [Path(place).absolute() for place in spec.submodule_search_locations or ()]


def _found_otherwise(top: str) -> ModuleSpec | None:
    """What finders beside Python's own say, as those of packages in development mode."""
    usual = (BuiltinImporter, FrozenImporter, PathFinder)
    others = [finder for finder in sys.meta_path if finder not in usual and hasattr(finder, "find_spec")]
    return next((spec for finder in others if (spec := finder.find_spec(top, None)) is not None), None)


def _judged_places(top: str) -> Iterator[Path]:
    """Where the code of a module would come from, and where that of one came from that is imported already."""
    imported = getattr(sys.modules.get(top), "__file__", None)
    for place in (*places_of(top), *([] if imported is None else [Path(imported).absolute()])):
        yield place
        yield place.resolve()


def _is_installed(place: Path) -> bool:
    return any(part in _INSTALLED for part in place.parts) or _is_below(place, _installed())


def _is_below(place: Path, folders: frozenset[Path]) -> bool:
    return any(folder in folders for folder in place.parents)


@functools.cache
def _installed() -> frozenset[Path]:
    """The folders that packages are installed into."""
    folders = [*site.getsitepackages(), site.getusersitepackages(), *map(sysconfig.get_path, ("purelib", "platlib"))]
    return frozenset(Path(folder).resolve() for folder in folders)


@functools.cache
def _standard() -> frozenset[Path]:
    """The folders of Python's own modules, compiled ones included."""
    folders = [os.path.dirname(os.__file__), *map(sysconfig.get_path, ("stdlib", "platstdlib"))]
    compiled = sysconfig.get_config_var("DESTSHARED")
    folders += [compiled] if compiled else []
    return frozenset(form for folder in folders for form in (Path(folder).absolute(), Path(folder).resolve()))

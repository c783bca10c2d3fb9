"""Where `conf/` and `recipes/` are: in place for a checkout, inside the package for an installed wheel."""

from __future__ import annotations

from pathlib import Path

from rlscale.config.errors import UserError

_PACKAGE = Path(__file__).resolve().parents[2]


def conf_dir() -> Path:
    """Folder of the Hydra groups."""
    return _asset("conf")


def recipes_dir() -> Path:
    """Folder of the shipped recipes."""
    return _asset("recipes")


def lock_file() -> Path:
    """The versions of the packages that this rlscale is tested with, all but torch's."""
    return _asset("requirements.lock")


def _asset(name: str) -> Path:
    """The wheel maps it to rlscale/_assets at build time; an editable install reads it beside the package."""
    for path in (_PACKAGE / "_assets" / name, _PACKAGE.parent / name):
        if path.exists():
            return path
    raise UserError(f"rlscale's {name} is missing from {_PACKAGE}; install rlscale again")

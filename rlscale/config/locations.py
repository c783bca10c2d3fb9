"""Where `conf/` and `recipes/` are: in place for a checkout, inside the package for an installed wheel."""

from __future__ import annotations

from pathlib import Path

from rlscale.config.errors import UserError

_PACKAGE = Path(__file__).resolve().parent.parent


def conf_dir() -> Path:
    """Folder of the Hydra groups."""
    return _asset("conf")


def recipes_dir() -> Path:
    """Folder of the shipped recipes."""
    return _asset("recipes")


def _asset(name: str) -> Path:
    """The wheel maps the folder to rlscale/_assets at build time; an editable install reads it beside the package."""
    for folder in (_PACKAGE / "_assets" / name, _PACKAGE.parent / name):
        if folder.is_dir():
            return folder
    raise UserError(f"rlscale's {name}/ folder is missing from {_PACKAGE}; install rlscale again")

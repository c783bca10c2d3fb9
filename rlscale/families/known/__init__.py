"""The families that rlscale knows, one module each, which names its family FAMILY. Adding one is adding its module."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from pkgutil import iter_modules

from rlscale.families.family import Family


def families() -> Iterator[Family]:
    """The family of each module of this package, in the order of their names."""
    for name in sorted(module.name for module in iter_modules(__path__)):
        family = import_module(f"{__name__}.{name}").FAMILY
        assert isinstance(family, Family), f"{name}.FAMILY is not a Family"
        yield family

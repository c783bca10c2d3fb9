"""The algorithms that ship, as the configuration composes them."""

from __future__ import annotations

import functools

from rlscale.config.composition.compose import compose
from rlscale.config.composition.locations import conf_dir
from rlscale.config.schema.algo_config import AlgoConfig

SHIPPED = tuple(sorted(file.stem for file in (conf_dir() / "algo").glob("*.yaml")))
"""Their names."""


@functools.cache
def shipped(name: str, *overrides: str) -> AlgoConfig:
    """A shipped algorithm with overrides as on the command line, read-only."""
    return compose(None, [f"algo={name}", *overrides]).algo

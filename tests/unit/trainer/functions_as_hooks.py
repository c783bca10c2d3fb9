"""Functions of several values as hooks, which take one object."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any


def taking(hook: Callable[..., Any]) -> Callable[..., Any]:
    """A hook of one object from a function of its values, in their order and without the columns."""
    return lambda x: hook(*(getattr(x, part.name) for part in dataclasses.fields(x) if part.name != "columns"))

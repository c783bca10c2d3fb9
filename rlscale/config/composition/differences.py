"""Which values of two plain trees differ."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any


def differences(before: Mapping[str, Any], after: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted key, (value before, value after)) of every value of `after` that `before` has otherwise or not at all.

    Mappings are compared key by key; one that is null on one side is compared whole.
    """
    for key, value in after.items():
        old = before.get(key)
        if isinstance(old, Mapping) and isinstance(value, Mapping):
            yield from differences(old, value, f"{prefix}{key}.")
        elif key not in before or not _same(old, value):
            yield prefix + key, (old, value)


def _same(one: Any, other: Any) -> bool:
    """Equality in which not-a-number equals itself."""
    return bool(one == other) or (one != one and other != other)

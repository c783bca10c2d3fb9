"""Is every number within its bounds, which the schema says on its field."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any

from rlscale.config.keys import Key
from rlscale.config.schema.about import Bounds


def out_of_range(keys: Iterable[Key]) -> Iterator[str]:
    """One line for each number outside its bounds or past its limit, and for each that is not finite.

    What a critic has from the policy is said once, of the policy.
    """
    numbers = {one.name: (one.about.bounds, _sized(one.value)) for one in keys if one.about.bounds is not None}
    for name, (bounds, value) in numbers.items():
        _, followed = numbers.get(name.removeprefix("critic."), (None, None))
        follows = name.startswith("critic.") and repr(value) == repr(followed)
        if isinstance(value, int | float) and not follows and (problem := _problem(value, bounds)):
            yield f"{name}={problem}"


def _problem(value: float, bounds: Bounds) -> str | None:
    if (outside := bounds.problem(value)) is not None:
        return f"{value}: {outside}"
    limit = bounds.limit
    if limit is not None and value > limit.most:
        return f"{value:.10g}: is above {limit.most:.10g}: {limit.why}"
    if limit is not None and 0 < value < limit.least:
        return f"{value:.10g}: is below {limit.least:.10g}: {limit.why}"
    return None


_LARGEST = 10**300
"""Whole numbers past it have no place among floats, and are as good as infinite."""


def _sized(value: Any) -> Any:
    if isinstance(value, int) and abs(value) > _LARGEST:
        return math.inf if value > 0 else -math.inf
    return value

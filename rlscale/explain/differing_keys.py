"""Every value of a configuration that is not the schema's default, by where it comes from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import MISSING

from rlscale.config.keys import plain
from rlscale.explain.key_lines import shown_value
from rlscale.explain.located_key import locate, value_at
from rlscale.explain.origins import Origins


def differing_lines(origins: Origins) -> Iterator[str]:
    """One line per value under the place that sets it: options first, the command line last."""
    node = origins.composition.node
    by_place: dict[str, list[str]] = {origin.heading: [] for _, origin in origins.all}
    for key in dict.fromkeys(name for name, _ in origins.all):
        value, default = value_at(node, key), locate(node, key).default
        if value is not MISSING and (default is MISSING or plain(default) != value):
            origin = origins.of(key)[-1]
            by_place[origin.heading].append(f"  {key} = {shown_value(value)}")
    count = sum(map(len, by_place.values()))
    yield f"{origins.composition.recipe.name}: {count} values are not the schema's defaults"
    for heading, lines in by_place.items():
        if lines:
            yield heading
            yield from lines

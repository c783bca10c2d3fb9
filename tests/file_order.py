"""In which order test files are given out to pytest's processes."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

FIRST = pytest.StashKey[Sequence[str]]()
"""Of the configuration: names of the files that begin."""


def begin_with(longest: Sequence[str], items: list[pytest.Item]) -> None:
    """Put the tests of these files first, in this order: a long one that came last would leave other cores idle."""
    if items:
        items[0].config.stash[FIRST] = longest
    items.sort(key=lambda item: longest.index(item.path.name) if item.path.name in longest else len(longest))

"""Tests that need a GPU are left out where there is none."""

from __future__ import annotations

from importlib.util import find_spec

import pytest


def leave_out(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect those marked `gpu` without one, and of the others what `needs` a package that is not installed."""
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if not marked:
        return
    import torch

    def lacks(item: pytest.Item) -> bool:
        marker = item.get_closest_marker("gpu")
        package = marker.kwargs.get("needs") if marker is not None else None
        return not torch.cuda.is_available() or (package is not None and find_spec(package) is None)

    left_out = [item for item in marked if lacks(item)]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in left_out]

"""How often Python looks for garbage that refers to itself, in a process that holds many samples which wait."""

from __future__ import annotations

import gc
from collections.abc import Mapping

YOUNG = 50_000
"""New objects after which the youngest are looked through; Python's own 700 are those of a handful of samples."""
SHARE = 4
"""One in so many of those that are held for long may be new before that, if it is more: as Python has it of the old."""


def spare_long_lived() -> None:
    """Look no more at what is there by now, as imported packages are, and more rarely at what comes.

    A sample that waits for its turn is some forty objects, none of which is garbage: with Python's own thresholds half
    of the time in which a hundred thousand are begun goes into looking at them again and again. The more there are, the
    more are under way at any moment, and a pass finds them all alive: for its cost to grow with the batch and not with
    the batch's square, passes must become rarer as more is held. So garbage of rings is at most a share of the rest.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG)
    if _in_proportion not in gc.callbacks:
        gc.callbacks.append(_in_proportion)


def _in_proportion(phase: str, of: Mapping[str, int]) -> None:
    """Fit the threshold after each pass that made objects old, so also when what was held has gone."""
    if phase == "stop" and of["generation"] > 0:
        gc.set_threshold(max(YOUNG, len(gc.get_objects(2)) // SHARE))

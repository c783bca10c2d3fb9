"""How often Python looks for garbage that refers to itself, in a process that holds many samples which wait."""

from __future__ import annotations

import gc

YOUNG = 50_000
"""New objects after which the youngest are looked through; Python's own 700 are those of a handful of samples."""


def spare_long_lived() -> None:
    """Look no more at what is there by now, as imported packages are, and more rarely at what comes.

    A sample that waits for its turn is some forty objects, none of which is garbage: with Python's own thresholds half
    of the time in which a hundred thousand are begun goes into looking at them again and again.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG)

"""How often a process that holds many samples looks for garbage; in a process of its own, as the collector is one's."""

import subprocess
import sys
from typing import Any

import pytest

from rlscale.rollout.garbage_collection import SHARE, YOUNG

BEGIN = """
import gc, weakref
from rlscale.rollout.garbage_collection import spare_long_lived
spare_long_lived()
"""


def printed_by(code: str) -> list[int]:
    """The numbers that the code prints after the collector was set up."""
    run: Any = subprocess.run(
        [sys.executable, "-c", BEGIN + code], capture_output=True, text=True, timeout=60, check=True
    )
    return [int(word) for word in run.stdout.split()]


def test_a_process_that_holds_little_looks_after_so_many_new_objects() -> None:
    assert printed_by("gc.collect(); print(gc.get_threshold()[0])") == [YOUNG]


def test_the_more_is_held_the_rarer_are_passes_and_back_again() -> None:
    held, more, gone = printed_by("""
held = [[] for _ in range(1_000_000)]
gc.collect()
print(len(gc.get_objects(2)), gc.get_threshold()[0])
held.clear()
gc.collect()
print(gc.get_threshold()[0])
""")
    assert held == pytest.approx(1_000_000, rel=0.01)
    assert more == pytest.approx(held / SHARE, rel=0.01)
    assert gone == YOUNG


def test_ten_times_as_many_objects_take_at_most_some_more_passes() -> None:
    """With one threshold for every size it would be more than ten times as many, as old ones are looked at, too."""
    few, many = printed_by("""
passes = [0]
gc.callbacks.append(lambda phase, of: passes.__setitem__(0, passes[0] + (phase == "stop")))
few = [[] for _ in range(300_000)]
print(passes[0])
few.clear(); gc.collect(); passes[0] = 0
many = [[] for _ in range(3_000_000)]
print(passes[0])
""")
    assert 5 <= few <= 10
    assert few < many < 6 * few


def test_garbage_in_rings_goes_by_itself() -> None:
    (left,) = printed_by(f"""
class Ring:
    def __init__(self):
        self.me = self
first = weakref.ref(Ring())
held = []
while first() is not None and len(held) < {4 * YOUNG}:
    held.append([])
print(len(held))
""")
    assert left <= YOUNG + 1


def test_setting_it_up_twice_is_setting_it_up_once() -> None:
    assert printed_by("n = len(gc.callbacks); spare_long_lived(); print(len(gc.callbacks) - n)") == [0]

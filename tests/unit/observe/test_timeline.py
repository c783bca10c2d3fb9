from __future__ import annotations

from pathlib import Path

import pytest

from rlscale.observe.time_charts import lane_order
from rlscale.observe.timeline import ENGINES, MOST_LANES, Span, Timeline, read_timeline


class Clock:
    """A clock that only the test moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_lanes_stand_by_their_numbers_and_those_of_the_driver_last() -> None:
    lanes = ["trainer", "rank 10", "rank 2", "engines", "engine 127.0.0.1:30000", "waiting"]
    in_order = ["engine 127.0.0.1:30000", "engines", "rank 2", "rank 10", "trainer", "waiting"]
    assert sorted(lanes, key=lane_order) == in_order


def test_of_more_than_have_room_none_has_a_lane_of_its_own(tmp_path: Path) -> None:
    timeline = Timeline(tmp_path)
    timeline.add_lanes({f"rank {number}": [("train", 1.0, 2.0)] for number in range(MOST_LANES + 1)})
    timeline.add_lanes({"rank 0": [("train", 1.0, 2.0), ("sync", 2.0, 2.5)]})
    timeline.close()
    assert [(one.lane, one.name, one.seconds) for one in read_timeline(tmp_path)] == [
        ("rank 0", "train", 1.0),
        ("rank 0", "sync", 0.5),
    ]


def test_phases_add_up_to_the_loop_and_leave_out_what_came_before(tmp_path: Path) -> None:
    clock = Clock()
    timeline = Timeline(tmp_path, clock=clock)
    with timeline.span("generate"):
        clock.now += 30
    timeline.begin_loop()
    with timeline.span("generate"):
        clock.now += 2
    with timeline.span("train"):
        clock.now += 4
    with timeline.span("evaluate"):
        clock.now += 0.5
    clock.now += 0.25
    assert timeline.phases() == {"generate": 2, "train": 4, "sync": 0, "other": 0.75, "loop": 6.75}
    timeline.end_loop()
    with timeline.span("train"):
        clock.now += 30
    timeline.end_loop()
    assert timeline.phases() == {"generate": 2, "train": 4, "sync": 0, "other": 0.75, "loop": 6.75}


def test_a_span_inside_another_interrupts_it_so_that_no_second_counts_twice(tmp_path: Path) -> None:
    clock = Clock()
    timeline = Timeline(tmp_path, clock=clock)
    timeline.begin_loop()
    with timeline.span("generate"):
        clock.now += 1
        with timeline.span("sync"):
            clock.now += 3
        clock.now += 1
    assert timeline.totals() == {"generate": 2, "sync": 3}
    assert read_timeline(tmp_path) == [
        Span("generate", "driver", 1000, 1001),
        Span("sync", "driver", 1001, 1004),
        Span("generate", "driver", 1004, 1005),
    ]


def test_a_span_ends_when_its_block_raises(tmp_path: Path) -> None:
    timeline = Timeline(tmp_path)
    with pytest.raises(RuntimeError), timeline.span("train"):
        raise RuntimeError
    with timeline.span("sync"):
        pass
    assert [span.name for span in read_timeline(tmp_path)] == ["train", "sync"]


def test_lanes_of_others_may_overlap_and_do_not_count_for_the_driver(tmp_path: Path) -> None:
    timeline = Timeline(tmp_path)
    timeline.begin_loop()
    timeline.add("generate", ENGINES, 100.0, 103.0)
    timeline.add("generate", ENGINES, 101.0, 102.0)
    assert timeline.totals(ENGINES) == {"generate": 4.0}
    assert timeline.phases()["generate"] == 0.0
    assert read_timeline(tmp_path)[0] == Span("generate", ENGINES, 100.0, 103.0)


def test_an_interval_never_has_a_negative_length(tmp_path: Path) -> None:
    timeline = Timeline(tmp_path)
    timeline.add("generate", ENGINES, 5.0, 4.0)
    assert timeline.totals(ENGINES) == {"generate": 0.0}


def test_a_continued_run_keeps_the_earlier_spans_and_a_fresh_one_does_not(tmp_path: Path) -> None:
    for resumed, expected in ((False, 1), (True, 2), (False, 1)):
        timeline = Timeline(tmp_path, resumed=resumed)
        timeline.add("train", "driver", 1.0, 2.0)
        timeline.close()
        assert len(read_timeline(tmp_path)) == expected

from __future__ import annotations

import re

import pytest

from rlscale.observe.charts import MAX_POINTS, Chart, Series, moving_average
from rlscale.observe.summary import Summary
from rlscale.observe.ticks import labels, nice_ticks
from rlscale.observe.time_charts import overlap_share, phase_bar, pick_window, timeline_chart
from rlscale.observe.timeline import Span


def path_of(svg: str) -> list[tuple[float, float]]:
    (path,) = re.findall(r'<path class="curve c1" d="([^"]+)"', svg)
    return [(float(x), float(y)) for x, y in re.findall(r"[ML]([\d.]+) ([\d.]+)", path)]


def test_a_curve_goes_from_the_left_to_the_right_edge_and_up_for_larger_values() -> None:
    points = path_of(Chart("x", [Series("a", [(0, 0.0), (5, 0.5), (10, 1.0)])], width=360, height=190).svg())
    assert [x for x, _ in points] == [46.0, 198.0, 350.0]
    assert [y for _, y in points] == [166.0, 88.0, 10.0]


def test_a_logarithmic_axis_puts_equal_factors_at_equal_distances_and_leaves_out_zero() -> None:
    points = path_of(Chart("x", [Series("a", [(0, 1e-6), (1, 1e-5), (2, 0.0), (3, 1e-4)])], log=True).svg())
    assert len(points) == 3
    assert points[0][1] - points[1][1] == pytest.approx(points[1][1] - points[2][1], abs=0.11)


@pytest.mark.parametrize("points", [[(1, 0.5)], [(1, 0.5), (2, 0.5)], [(0, 0.0), (1, 0.0)], [(0, -3e-9), (1, 4e-9)]])
@pytest.mark.parametrize("log", [False, True])
def test_single_points_and_flat_curves_are_drawn(points: list[tuple[float, float]], log: bool) -> None:
    svg = Chart("x", [Series("a", points)], log=log, zero=True).svg()
    assert "nan" not in svg
    assert ("circle" in svg or "path" in svg) == any(y > 0 or not log for _, y in points)


def test_a_chart_without_points_is_left_out() -> None:
    assert Chart("x", [Series("a", []), Series("b", [(1, float("nan"))])]).svg() == ""


def test_long_curves_are_thinned_but_keep_their_end() -> None:
    points = path_of(Chart("x", [Series("a", [(i, float(i)) for i in range(10_001)])]).svg())
    assert len(points) <= MAX_POINTS
    assert points[-1][0] == 350.0


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1.0]), (3.1, 4.4, [3, 3.5, 4, 4.5]), (0, 150, [0, 50, 100, 150])],
)
def test_ticks_are_round_numbers_around_the_values(low: float, high: float, expected: list[float]) -> None:
    assert nice_ticks(low, high, 5 if high == 1 else 4) == pytest.approx(expected)


@pytest.mark.parametrize("form", ["percent", "figure", "count"])
@pytest.mark.parametrize(
    ("low", "high"),
    [(0, 0.002), (0, 1), (0, 3e-7), (0.9999, 1.0001), (12_000, 12_040), (0, 4e9), (-0.3, 0.3), (5, 5), (1e-30, 2e-30)],
)
def test_no_two_marks_of_an_axis_have_the_same_label(low: float, high: float, form: str) -> None:
    ticks = nice_ticks(low, high, 4)
    texts = labels(ticks, form)
    assert len(set(texts)) == len(texts) >= 2
    assert not any(text.startswith("-0") and float(text.strip("%kMB")) == 0 for text in texts)


def test_labels_say_the_values_of_their_marks() -> None:
    assert labels([0, 0.0005, 0.001, 0.0015, 0.002], "percent") == ["0.00%", "0.05%", "0.10%", "0.15%", "0.20%"]
    assert labels([0, 0.5, 1], "percent") == ["0%", "50%", "100%"]
    assert labels([9000, 9050, 9100], "count") == ["9.00k", "9.05k", "9.10k"]
    assert labels([0, 0.25, 0.5], "figure") == ["0.00", "0.25", "0.50"]
    assert labels([0, 5e-6, 1e-5], "figure") == ["0", "5e-06", "1e-05"]


def test_what_is_zero_throughout_takes_no_card_but_is_named() -> None:
    zero, other = Series("low", [(1, 0.0), (2, 0.0)]), Series("high", [(1, 0.0), (2, 0.1)])
    assert Chart("Staleness", [zero]).svg() == ""
    assert Chart("Staleness", [zero]).left_out == ["Staleness"]
    assert "low" not in Chart("Clipped", [zero, other]).svg()
    assert Chart("Clipped", [zero, other]).left_out == ["Clipped (low)"]
    assert "low" in Chart("Reward", [zero], zero=True).svg()
    assert Chart("Reward", [zero], zero=True).left_out == []


def test_a_moving_average_keeps_a_straight_line_in_the_middle() -> None:
    line = [(float(i), 2.0 * i) for i in range(100)]
    middle = [y for _, y in moving_average(line)][20:80]
    assert middle == pytest.approx([y for _, y in line[20:80]])


def cycle(start: float, *, engines_ahead: float = 0.0) -> list[Span]:
    """Generate 2 s, train 1 s, sync 0.2 s; the engines may start earlier than the driver waits."""
    return [
        Span("generate", "engines", start - engines_ahead, start + 2),
        Span("generate", "driver", start, start + 2),
        Span("train", "driver", start + 2, start + 3),
        Span("sync", "driver", start + 3, start + 3.2),
    ]


def test_the_overlap_is_the_share_of_training_during_which_engines_generate() -> None:
    in_turn = [s for i in range(5) for s in cycle(4.0 * i)]
    ahead = [s for i in range(5) for s in cycle(4.0 * i, engines_ahead=1.5)]
    assert overlap_share(in_turn) == 0.0
    # From the second cycle on, half a second of each training second: 2.5 to 3 of each but the last.
    assert overlap_share(ahead) == pytest.approx(4 * 0.5 / 5)
    assert overlap_share([]) is None


def test_the_window_holds_whole_iterations_and_avoids_the_gap_of_a_resume() -> None:
    spans = [s for start in [0, 4, 8, 12, 1000, 1004, 1008, 1012, 1016, 1020] for s in cycle(float(start))]
    window = pick_window(spans)
    assert window is not None
    start, end = window
    assert end - start == pytest.approx(16.2)
    assert start >= 1000


def test_every_lane_of_the_window_is_drawn() -> None:
    html = timeline_chart([s for i in range(6) for s in cycle(4.0 * i)])
    wide, narrow = html.split('class="on-narrow"')
    for drawn in (wide, narrow):
        assert re.findall(r'class="lane"[^>]*>([^<]+)<', drawn) == ["engines", "trainer", "sync", "waiting"]
        # The window starts with a train's end, so it holds four whole trainings.
        assert drawn.count("<title>train, 1.0 s</title>") == 4
    assert timeline_chart([]) == ""
    assert "train" in timeline_chart(cycle(0.0))


def test_the_bar_shows_each_phase_in_proportion() -> None:
    html = phase_bar(Summary(generate_seconds=6.0, train_seconds=3.0, sync_seconds=1.0, other_seconds=0.0))
    assert re.findall(r"flex-grow:([\d.]+)", html) == ["0.60000", "0.30000", "0.10000"]
    assert phase_bar(Summary()) == ""

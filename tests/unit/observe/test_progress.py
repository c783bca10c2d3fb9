from __future__ import annotations

import io
import re

import pytest

from rlscale.config.schema.run_config import Progress as Mode
from rlscale.observe.formatting import count, duration, figure, percent
from rlscale.observe.progress import Eta, Progress, sparkline


def test_the_time_left_is_the_mean_iteration_times_what_remains() -> None:
    eta = Eta()
    eta.start(10, now=100.0)
    assert eta.left(20, now=101.0) is None
    eta.done(12, now=108.0)
    assert eta.left(20, now=108.0) == pytest.approx(8 * 4.0)
    assert eta.left(20, now=110.0) == pytest.approx(8 * 4.0 - 2.0)
    assert eta.left(12, now=200.0) == 0.0


def test_without_a_terminal_progress_is_plain_lines_without_control_codes() -> None:
    out = io.StringIO()
    with Progress("arithmetic", 3, file=out) as progress:
        progress.phase("starting engines")
        progress.begin()
        progress.phase("generating")
        progress.show({"accuracy": 0.51})
        progress.iteration(1, 3, {"reward": 0.4217, "response_length": 5.25, "tokens_per_s": 2134.0})
        progress.iteration(3, 3, {"reward": 0.5})
        progress.phase("saving the model")
        progress.note("done")
    text = out.getvalue()
    assert "\x1b" not in text
    lines = [re.sub(r"^\[ *[\d.]+s\] ", "", line) for line in text.splitlines()]
    assert lines[0] == "starting engines"
    assert lines[1].startswith("iteration 1/3  reward 0.422  accuracy 51.0 %  length 5.25  tokens/s 2.13k  left ")
    assert lines[2].startswith("iteration 3/3  reward 0.500  accuracy 51.0 %")
    assert lines[3:] == ["saving the model", "done"]


def test_plain_lines_do_not_flood_a_log() -> None:
    out = io.StringIO()
    with Progress("arithmetic", 1000, mode=Mode.plain, file=out) as progress:
        progress.begin()
        for i in range(1, 1001):
            progress.iteration(i, 1000, {"reward": 0.5})
    assert 2 <= len(out.getvalue().splitlines()) < 50


def test_the_live_picture_shows_phase_bar_numbers_and_time_left() -> None:
    out = io.StringIO()
    progress = Progress("arithmetic", 10, mode=Mode.live, file=out)
    progress.begin()
    progress.phase("training")
    for i in (1, 2, 3):
        progress.iteration(i, 10, {"reward": 0.1 * i, "response_length": 5.0})
    progress.note("an engine was restarted")
    progress.close()
    progress.close()
    text = out.getvalue()
    for part in (
        "rlscale · arithmetic",
        "training",
        "iteration 3/10",
        "30.0 %",
        "0.300",
        "an engine was restarted",
        "left",
    ):
        assert part in text


def test_a_sparkline_scales_from_the_lowest_to_the_highest_and_keeps_to_its_width() -> None:
    assert sparkline([0.0, 0.5, 1.0], 10) == "▁▅█"  # 3.5 rounds to the even 4
    assert sparkline([1.0, 1.0], 10) == "▁▁"
    assert len(sparkline([float(i) for i in range(100)], 7)) == 7


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (duration(0.42), "0.42 s"),
        (duration(59.96), "1:00 min"),
        (duration(65), "1:05 min"),
        (duration(3600 + 62), "1:01:02 h"),
        (count(912), "912"),
        (count(391_234), "391k"),
        (count(999_900), "1M"),
        (figure(0.42170), "0.4217"),
        (figure(0.00000213), "2.1e-06"),
        (figure(12345.6), "12,346"),
        (figure(0.0), "0"),
        (percent(0.9492), "94.9 %"),
    ],
)
def test_numbers_are_written_for_people(written: str, expected: str) -> None:
    assert written == expected

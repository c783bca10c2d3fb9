"""Curves and lanes of runs of any length, with as many points as a picture has."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from rlscale.dashboard.columns import Columns
from rlscale.dashboard.run_reader import RunReader
from rlscale.dashboard.timeline_lanes import MOST_SPANS, STRETCHES, Spans
from rlscale.observe.tail import Tail


def long_columns() -> Columns:
    columns = Columns()
    for i in range(100_000):
        columns.add(i, {"reward": float(i), "spike": 7.0 if i == 31_416 else 0.0})
    return columns


def test_a_long_curve_keeps_its_spikes_in_a_few_points() -> None:
    columns = long_columns()
    curve = columns.curve("spike", 500)
    assert len(curve.x) == 500
    assert max(value for value in curve.high if value is not None) == 7.0
    assert max(value for value in curve.mean if value is not None) == pytest.approx(7 / 200)
    reward = columns.curve("reward", 500)
    assert (reward.low[0], reward.high[-1], reward.mean[0]) == (0.0, 99_999.0, 99.5)


def test_a_closer_look_has_every_number() -> None:
    curve = long_columns().curve("spike", 500, 31_400, 31_420)
    assert curve.x == [float(x) for x in range(31_400, 31_421)]
    assert curve.mean[16] == 7.0


def test_a_curve_of_a_hundred_thousand_points_takes_milliseconds() -> None:
    columns = long_columns()
    began = time.process_time()
    for _ in range(10):
        columns.curve("reward", 600)
    assert (time.process_time() - began) / 10 < 0.1


def test_lines_of_one_iteration_are_joined_and_late_ones_put_in_their_place() -> None:
    columns = Columns()
    for iteration, values in ((1, {"a": 1.0}), (1, {"a": 2.0, "b": 5}), (3, {"a": 3.0}), (2, {"a": 9.0, "text": "x"})):
        columns.add(iteration, {"iteration": iteration, "time": 0.0, **values})
    assert columns.names == ["a", "b"]
    curve = columns.curve("a", 10)
    assert (curve.x, curve.mean) == ([1.0, 2.0, 3.0], [2.0, 9.0, 3.0])


def test_numbers_that_json_has_no_word_for_are_null() -> None:
    columns = Columns()
    columns.add(1, {"loss": float("inf")})
    columns.add(2, {"loss": float("nan")})
    assert columns.curve("loss", 10).mean == [None, None]


def span(name: str, lane: str, start: float, end: float) -> dict[str, object]:
    return {"name": name, "lane": lane, "start": start, "end": end}


def test_a_window_of_a_few_spans_has_them_and_a_long_one_the_share_of_each_stretch() -> None:
    spans = Spans()
    for i in range(MOST_SPANS + 10):
        spans.add(span("train", "driver", 10.0 * i, 10.0 * i + 4.0))
    (lane,) = spans.lanes(95.0, 112.0)
    assert lane == {"lane": "trainer", "spans": [["train", 5.0, 9.0], ["train", 15.0, 17.0]]}
    whole = spans.whole
    assert whole is not None
    (lane,) = spans.lanes(*whole)
    shares = lane["shares"]["train"]
    assert len(shares) == STRETCHES
    assert sum(shares) / STRETCHES == pytest.approx(0.4, abs=0.01)
    assert all(0.3 <= share <= 0.5 for share in shares)


def test_lines_that_are_no_spans_are_passed_over() -> None:
    spans = Spans()
    spans.add({"name": "train", "lane": "driver", "start": None, "end": 1})
    assert (len(spans), spans.whole, spans.lanes(0, 1)) == (0, None, [])


def test_a_long_file_is_seen_whole_before_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rlscale.dashboard.run_reader._SAMPLED_FROM", 1000)
    lines = (json.dumps({"iteration": i, "reward": i}) for i in range(5000))
    (tmp_path / "metrics.jsonl").write_text("".join(f"{line}\n" for line in lines))
    reader = RunReader(tmp_path)
    assert not reader.refresh(0.0), "no time to read on"
    curve = reader.metrics.curve("reward", 5000)
    assert (curve.x[0], curve.x[-1]) == (0.0, 4999.0)
    assert 1000 < len(curve.x) < 5000
    while not reader.refresh():
        pass
    assert len(reader.metrics.curve("reward", 5000).x) == 5000


def test_a_file_that_is_not_there_is_read_to_its_end(tmp_path: Path) -> None:
    assert RunReader(tmp_path).refresh()
    assert Tail(tmp_path / "nothing").share == 1.0


def test_a_record_that_no_number_holds_is_passed_over_and_the_rest_stays_in_step(tmp_path: Path) -> None:
    huge = "1" + "0" * 400
    numbers = [f'{{"iteration": {huge}, "a": 1}}', f'{{"iteration": 1, "a": {huge}}}', '{"iteration": 2, "a": 5}']
    (tmp_path / "metrics.jsonl").write_text("\n".join(numbers) + "\n")
    spans = [
        f'"start": {huge}, "end": 2',
        f'"start": 1, "end": {huge}',
        '"start": NaN, "end": 2',
        '"start": 1, "end": 2',
    ]
    lines = [f'{{"lane": "driver", "name": "train", {times}}}\n' for times in spans]
    (tmp_path / "timeline.jsonl").write_text("".join(lines))
    reader = RunReader(tmp_path)
    assert reader.refresh()
    assert reader.metrics.curve("a", 10).mean == [5.0]
    assert (len(reader.spans), reader.spans.whole) == (1, (1.0, 2.0))


def test_spans_may_have_more_names_than_two_bytes_count() -> None:
    spans = Spans()
    for number in range((1 << 16) + 2):
        spans.add({"lane": "driver", "name": str(number), "start": number, "end": number + 1})
    assert len(spans) == (1 << 16) + 2


def test_half_a_line_at_the_end_is_no_work_left(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"iteration": 1, "a": 5}\n{"iteration": 2, "a')
    reader = RunReader(tmp_path)
    assert reader.refresh()
    assert reader.share == 1.0

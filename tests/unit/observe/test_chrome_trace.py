"""The spans of a run as a trace that Perfetto opens."""

from __future__ import annotations

import json
from pathlib import Path

from rlscale.observe.chrome_trace import write_trace
from rlscale.observe.timeline import Timeline


def spans(folder: Path) -> None:
    timeline = Timeline(folder)
    timeline.add("generate", "driver", 100.0, 101.5)
    timeline.add("train", "driver", 101.5, 102.0)
    timeline.add("generate", "engines", 100.25, 101.25)
    timeline.close()


def test_every_span_is_an_event_in_the_row_of_its_lane(tmp_path: Path) -> None:
    spans(tmp_path)
    (tmp_path / "profile").mkdir()
    write_trace(tmp_path)
    events = json.loads((tmp_path / "profile" / "trace.json").read_text())["traceEvents"]
    rows = {one["tid"]: one["args"]["name"] for one in events if one["name"] == "thread_name"}
    assert list(rows.values()) == ["engines", "trainer", "waiting"]
    drawn = [(rows[one["tid"]], one["name"], one["ts"], one["dur"]) for one in events if one["ph"] == "X"]
    assert drawn == [
        ("waiting", "generate", 0.0, 1.5e6),
        ("engines", "generate", 0.25e6, 1e6),
        ("trainer", "train", 1.5e6, 0.5e6),
    ]


def test_a_run_without_profiles_has_no_trace(tmp_path: Path) -> None:
    spans(tmp_path)
    write_trace(tmp_path)
    assert not (tmp_path / "profile").exists()

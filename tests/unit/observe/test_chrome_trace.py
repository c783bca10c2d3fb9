"""The spans of a run as a trace that Perfetto opens."""

from __future__ import annotations

import json
from pathlib import Path

from rlscale.observe.chrome_trace import write_requests, write_trace
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


def test_requests_lie_in_the_row_of_their_engine_with_what_it_told_of_them(tmp_path: Path) -> None:
    spans(tmp_path)
    numbers = {"prompt_tokens": 7, "cached_tokens": 3, "tokens": 5}
    phases = [("queue", 100.25, 100.5), ("prefill", 100.5, 100.75), ("decode", 100.75, 101.0)]
    told = {"engine": "127.0.0.1:2", "start": 100.25, "end": 101.0, **numbers, "phases": phases}
    write_requests(tmp_path, [told, {**told, "engine": "", "start": 100.5, "phases": []}], 11)
    write_trace(tmp_path)
    trace = json.loads((tmp_path / "profile" / "trace.json").read_text())
    events = trace["traceEvents"]
    engines = {one["pid"]: one["args"]["name"] for one in events if one["name"] == "process_name"}
    assert engines == {1: "requests of the engines", 2: "requests of 127.0.0.1:2"}
    drawn = [
        (one["pid"], one["id"], one["ph"], one["name"], one["ts"]) for one in events if one.get("cat") == "request"
    ]
    assert drawn == [
        (2, 0, "b", "request", 0.25e6),
        (2, 0, "e", "request", 1e6),
        (2, 0, "b", "queue", 0.25e6),
        (2, 0, "e", "queue", 0.5e6),
        (2, 0, "b", "prefill", 0.5e6),
        (2, 0, "e", "prefill", 0.75e6),
        (2, 0, "b", "decode", 0.75e6),
        (2, 0, "e", "decode", 1e6),
        (1, 1, "b", "request", 0.5e6),
        (1, 1, "e", "request", 1e6),
    ]
    assert [one["args"] for one in events if one.get("ph") == "b" and "args" in one] == [numbers] * 2
    assert trace["metadata"] == {"requests left out": 11}

"""The spans of a run as one trace that Perfetto and chrome://tracing open."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rlscale.observe.atomic import write_text
from rlscale.observe.time_charts import lane_of, lane_order
from rlscale.observe.timeline import Span, read_timeline

FOLDER = "profile"
"""Folder of a run for it, and for what ranks write."""
FILE = "trace.json"


def write_trace(folder: Path) -> None:
    """Write `profile/trace.json` from the timeline of the run in that folder, where iterations of it were profiled."""
    if (folder / FOLDER).is_dir():
        trace = {"traceEvents": events(read_timeline(folder)), "displayTimeUnit": "ms"}
        write_text(folder / FOLDER / FILE, json.dumps(trace) + "\n")


def events(spans: Sequence[Span]) -> list[dict[str, Any]]:
    """A row for each lane, in the report's order, and an event for each span; microseconds since the first began."""
    labels = sorted({lane_of(span.lane, span.name) for span in spans}, key=lane_order)
    rows = {label: number for number, label in enumerate(labels)}
    zero = min((span.start for span in spans), default=0.0)
    named = [_about("thread_name", row, {"name": label}) for label, row in rows.items()]
    ordered = [_about("thread_sort_index", row, {"sort_index": row}) for row in rows.values()]
    return [
        *named,
        *ordered,
        *(
            {
                "name": span.name,
                "cat": span.lane,
                "ph": "X",
                "ts": round((span.start - zero) * 1e6, 1),
                "dur": round(span.seconds * 1e6, 1),
                "pid": 0,
                "tid": rows[lane_of(span.lane, span.name)],
            }
            for span in spans
        ),
    ]


def _about(what: str, row: int, said: dict[str, Any]) -> dict[str, Any]:
    return {"name": what, "ph": "M", "pid": 0, "tid": row, "args": said}

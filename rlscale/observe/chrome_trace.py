"""The spans of a run, and the requests of its engines, as one trace that Perfetto and chrome://tracing open."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rlscale.observe import jsonl
from rlscale.observe.atomic import write_text
from rlscale.observe.time_charts import lane_of, lane_order
from rlscale.observe.timeline import Span, read_timeline

FOLDER = "profile"
"""Folder of a run for it, and for what ranks write."""
FILE = "trace.json"
REQUESTS = "requests.jsonl"
"""File beside it with the requests of profiled iterations, a line each."""
_MOST_REQUESTS = 20_000
"""Requests in a trace: some 10 MB."""
_NUMBERS = ("prompt_tokens", "cached_tokens", "tokens")


def write_requests(folder: Path, requests: Iterable[Mapping[str, Any]], more: int) -> None:
    """Append the requests of a profiled iteration of the run in that folder, and how many `more` there were.

    Each has `engine`, `start` and `end` (seconds since 1970), `prompt_tokens`, `cached_tokens`, `tokens`, `phases`.
    """
    file = folder / FOLDER / REQUESTS
    file.parent.mkdir(exist_ok=True)
    with jsonl.open_to_append(file) as lines:
        for request in requests:
            lines.write(jsonl.to_line(dict(request)))
        if more:
            lines.write(jsonl.to_line({"left_out": more}))


def write_trace(folder: Path) -> None:
    """Write `profile/trace.json` from the timeline of the run in that folder, where iterations of it were profiled."""
    if (folder / FOLDER).is_dir():
        spans, requests = read_timeline(folder), list(jsonl.read(folder / FOLDER / REQUESTS))
        trace: dict[str, Any] = {"traceEvents": events(spans, requests), "displayTimeUnit": "ms"}
        if left_out := _left_out(requests):
            trace["metadata"] = {"requests left out": left_out}
        write_text(folder / FOLDER / FILE, json.dumps(trace) + "\n")


def events(spans: Sequence[Span], requests: Sequence[Mapping[str, Any]] = ()) -> list[dict[str, Any]]:
    """A row for each lane, in the report's order, and an event for each span; microseconds since the first began.

    Each engine is a process of the trace, whose requests lie over one another.
    """
    labels = sorted({lane_of(span.lane, span.name) for span in spans}, key=lane_order)
    rows = {label: number for number, label in enumerate(labels)}
    zero = min((span.start for span in spans), default=0.0)
    named = [_about("thread_name", 0, row, {"name": label}) for label, row in rows.items()]
    ordered = [_about("thread_sort_index", 0, row, {"sort_index": row}) for row in rows.values()]
    drawn = [
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
    ]
    kept = [one for one in requests if "start" in one and "end" in one][:_MOST_REQUESTS]
    engines = sorted({str(one["engine"]) for one in kept})
    processes = {engine: number for number, engine in enumerate(engines, 1)}
    called = [
        _about("process_name", number, 0, {"name": f"requests of {engine or 'the engines'}"})
        for engine, number in processes.items()
    ]
    of_requests = [
        event
        for number, one in enumerate(kept)
        for event in _of_request(one, number, processes[str(one["engine"])], zero)
    ]
    return [*named, *ordered, *drawn, *called, *of_requests]


def _of_request(request: Mapping[str, Any], number: int, process: int, zero: float) -> Iterator[dict[str, Any]]:
    """Begin and end of a request, and inside it of the phases that its engine told of."""
    spans = [("request", request["start"], request["end"]), *request.get("phases", ())]
    told = {name: request.get(name, 0) for name in _NUMBERS}
    for place, (name, start, end) in enumerate(spans):
        same = {"name": name, "cat": "request", "id": number, "pid": process, "tid": 0}
        yield {**same, "ph": "b", "ts": round((start - zero) * 1e6, 1), **({} if place else {"args": told})}
        yield {**same, "ph": "e", "ts": round((end - zero) * 1e6, 1)}


def _left_out(requests: Sequence[Mapping[str, Any]]) -> int:
    """Requests that the trace does not show."""
    shown = sum("start" in one for one in requests)
    return max(0, shown - _MOST_REQUESTS) + sum(int(one.get("left_out", 0)) for one in requests)


def _about(what: str, process: int, row: int, said: dict[str, Any]) -> dict[str, Any]:
    return {"name": what, "ph": "M", "pid": process, "tid": row, "args": said}

"""When each request was with which engine, for the trace of a run: sent, answered, and what it tells of between."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

MOST = 5000
"""Requests that are remembered until somebody takes them; later ones are counted only."""
_PHASES = (
    ("queue", "request_received_ts", "forward_entry_time"),
    ("prefill", "forward_entry_time", "prefill_finished_time"),
    ("decode", "prefill_finished_time", "request_finished_ts"),
)
"""What an engine tells with `rollout.sglang.enable_metrics=true`: name, and the fields of its begin and end."""
_COUNTS = ("prompt_tokens", "cached_tokens", "completion_tokens")


@dataclass(frozen=True)
class RequestSpan:
    """One request; times in seconds since 1970."""

    engine: str
    """Host and port; empty where nobody said it."""
    start: float
    """When it was sent."""
    end: float
    """When its answer was there."""
    prompt_tokens: int
    cached_tokens: int
    """Of the prompt, those whose keys and values the engine had."""
    tokens: int
    """That were generated."""
    phases: tuple[tuple[str, float, float], ...] = ()
    """queue, prefill, decode with begin and end, as far as the engine tells them."""


class RequestSpans:
    """Remembers requests, where somebody wants to know."""

    def __init__(self, wanted: bool = False) -> None:
        self.wanted = wanted
        self._spans: list[RequestSpan] = []
        self._more = 0

    def answered(self, start: float, meta: Mapping[str, Any]) -> None:
        """A request that was sent at `start` (seconds since 1970) has an answer with this `meta_info`."""
        if not self.wanted:
            return
        if len(self._spans) >= MOST:
            self._more += 1
            return
        end = time.time()
        asked, cached, made = (int(meta.get(name) or 0) for name in _COUNTS)
        engine, phases = str(meta.get("engine", "")), _phases(meta, start, end)
        self._spans.append(RequestSpan(engine, start, end, asked, cached, made, phases))

    def take(self) -> tuple[list[RequestSpan], int]:
        """Requests since the last call, and how many more there were."""
        taken, self._spans, self._more = (self._spans, self._more), [], 0
        return taken


def _phases(meta: Mapping[str, Any], start: float, end: float) -> tuple[tuple[str, float, float], ...]:
    """By the engine's clock, kept inside the request's own span: another machine's may differ by a little."""
    found = []
    for name, begins, ends in _PHASES:
        times = meta.get(begins), meta.get(ends)
        if all(isinstance(one, (int, float)) for one in times):
            first, last = (min(max(float(one), start), end) for one in times if one is not None)
            found.append((name, first, max(first, last)))
    return tuple(found)

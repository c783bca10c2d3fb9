"""Numbers about what was generated."""

from __future__ import annotations

from dataclasses import dataclass, field

from rlscale.rollout.engines.busy_times import Times
from rlscale.rollout.engines.engine_loads import EngineLoad
from rlscale.rollout.engines.request_spans import RequestSpan


@dataclass(frozen=True)
class RolloutStats:
    """`counters`: totals of the run. `intervals`: (start, end) in wall-clock seconds since the last call during which
    at least one request was with an engine. `measures`: what the last batch was like. `loads`: of each engine by its
    URL, on average since the last call. `notes`: lines for the user since then. `requests`: those with engines since
    then, where the run is traced, and `more_requests`, how many others there were. `busy`: when each engine, by its
    address, had requests."""

    counters: dict[str, int]
    intervals: list[tuple[float, float]]
    measures: dict[str, float] = field(default_factory=dict)
    loads: dict[str, EngineLoad] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    requests: list[RequestSpan] = field(default_factory=list)
    more_requests: int = 0
    busy: dict[str, Times] = field(default_factory=dict)

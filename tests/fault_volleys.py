"""The cells of the fault matrix that the end-to-end tests play: of each placement a fixed twelfth with every process,
fault and phase.

`benchmarks/fault_cells.py` says what a cell is; conftest.py puts it on the path. docs/reliability.md has the `table`.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from fault_cells import PROCESSES, Cell
from harms import FAULTS, can_starve

VOLLEYS = (
    ("rank:kill:log-probs",),
    ("rank:stop:train", "engine:kill:train", "router:kill:train"),
    ("engine:stop:generate", "router:stop:generate"),
    ("scheduler:stop:sync", "router:kill:sync"),
    ("scheduler:kill:log-probs", "router:stop 20 s:log-probs", "raylet:stop:log-probs"),
    (
        "scheduler:starved:evaluate",
        "driver:starved:evaluate",
        "rank:out of memory:evaluate",
        "raylet:stop 20 s:evaluate",
    ),
    ("rollout service:kill:evaluate", "launcher:kill:evaluate", "Ray worker:kill:evaluate"),
    ("node:kill:train",),
    ("rank:stop:start", "engine:kill:start"),
    (
        *("rank:stop:stop", "scheduler:stop:stop", "router:stop:stop"),
        *("rollout service:stop:stop", "launcher:stop:stop", "raylet:stop:stop"),
    ),
    (
        *("rank:disk full:save", "rollout service:disk full:save", "launcher:disk full:save"),
        *("engine:disk full:save", "scheduler:disk full:save", "router:disk full:save"),
    ),
    (
        *("scheduler:out of memory:generate", "router:out of memory:generate"),
        *("rollout service:out of memory:generate", "raylet:out of memory:generate"),
    ),
)
"""What happens at once, one volley after another in one run, in tests/e2e/run/test_fault_matrix.py.

The last two keep no iteration from being made, and may come to the run's end.
"""
DISAGGREGATED = (
    ("rank:kill:train", "engine:kill:train"),
    ("scheduler:stop:generate", "router:kill:generate"),
    ("rank:stop:log-probs", "engine:stop:log-probs", "raylet:stop:log-probs"),
    ("scheduler:kill:save", "router:stop 20 s:save", "driver:stop 20 s:save"),
    ("scheduler:starved:train", "Ray worker:starved:train", "raylet:stop 20 s:train"),
    ("rank:out of memory:sync", "engine:out of memory:sync"),
    (
        *("driver:starved:generate", "launcher:starved:generate"),
        *("router:starved:generate", "rollout service:starved:generate"),
    ),
    ("raylet:kill:sync",),
    ("rollout service:kill:train", "engine:stop:train"),
    ("node:kill:evaluate",),
    ("launcher:kill:generate", "Ray worker:kill:generate"),
    ("driver:kill:save",),
    ("launcher:stop:start", "scheduler:kill:start"),
    ("rank:kill:stop", "engine:stop:stop", "router:kill:stop", "rollout service:stop:stop"),
    ("node:stop 20 s:sync",),
    (
        *("rank:disk full:log-probs", "rollout service:disk full:log-probs", "launcher:disk full:log-probs"),
        *("engine:disk full:log-probs", "scheduler:disk full:log-probs", "router:disk full:log-probs"),
    ),
    (
        *("scheduler:out of memory:evaluate", "router:out of memory:evaluate"),
        *("rollout service:out of memory:evaluate", "engine:out of memory:evaluate"),
    ),
)
"""The same of a run that is disaggregated: its engines generate for the next iteration while the trainer works."""
ELSEWHERE = {
    "test_bad_luck.py": ("driver:stop:generate", "driver:kill:generate", "rank:kill:train"),
    "test_cut_off_syncs.py": ("engine:kill:sync", "rank:kill:sync", "rank:stop:sync"),
}
"""Cells of other runs in tests/e2e/run."""


def ahead() -> list[Cell]:
    """All of the disaggregated run."""
    return [Cell.of(text) for volley in DISAGGREGATED for text in volley]


def played() -> list[Cell]:
    """All of the others."""
    return [Cell.of(text) for volley in (*VOLLEYS, *ELSEWHERE.values()) for text in volley]


def volleys(texts: Sequence[Sequence[str]] = VOLLEYS) -> list[list[Cell]]:
    """Those of a run, as this user may play them."""
    found = [[Cell.of(text) for text in volley] for volley in texts]
    return found if can_starve() else [[cell for cell in volley if cell.fault != "starved"] for volley in found]


def table(cells: Collection[Cell]) -> str:
    """For docs/reliability.md: in which phases a fault befalls a process."""
    lines = [f"| process | {' | '.join(FAULTS)} |", f"|{'---|' * (len(FAULTS) + 1)}"]
    for process in PROCESSES:
        phases = [
            ", ".join(dict.fromkeys(one.phase for one in cells if (one.process, one.fault) == (process, fault)))
            for fault in FAULTS
        ]
        lines.append(f"| {process} | {' | '.join(phases)} |")
    return "\n".join(lines)

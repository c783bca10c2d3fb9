"""What the page asks of one run, as plain values for JSON."""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

from rlscale.dashboard.columns import finite
from rlscale.dashboard.found_runs import describe
from rlscale.dashboard.run_reader import ENGINES, RunReader
from rlscale.dashboard.stored_groups import StoredGroups
from rlscale.observe.advice import ITERATIONS, advise
from rlscale.observe.fates import fates
from rlscale.observe.load_log import RESTARTS
from rlscale.observe.tail import end_lines

_TOTALS = "staleness_tokens/"
_ACCOUNTS = ("prompts/", "tokens/")
_LINES, _BYTES = 200, 1 << 16
_NEWEST_SPANS, _OF_EACH_KIND = 60, 6
"""Of the timeline the newest spans are shown first: so many at least, and on average of each lane and name."""
_GROUPS = 2000

T = TypeVar("T")
P = ParamSpec("P")


def _while_nothing_is_read(answer: Callable[Concatenate[RunAnswers, P], T]) -> Callable[Concatenate[RunAnswers, P], T]:
    """An answer of what the reader holds, which must not grow meanwhile."""

    @functools.wraps(answer)
    def locked(self: RunAnswers, *args: P.args, **kwargs: P.kwargs) -> T:
        with self.reader.lock:
            return answer(self, *args, **kwargs)

    return locked


class RunAnswers:
    """One run: its reader, its stored rollouts, and the answers made of them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.reader = RunReader(folder)
        self.asked = self.read_on = time.monotonic()
        """When somebody asked last, and when its files were read on last."""
        self._stored = StoredGroups(folder)

    @_while_nothing_is_read
    def about(self) -> dict[str, Any]:
        """What is shown above everything else: status, newest metrics, advice."""
        columns = self.reader.metrics
        newest = {name: last for name in columns.names if (last := columns.last(name)) is not None}
        advice = advise(lambda name: columns.recent(name, ITERATIONS).tolist())
        return {
            **describe(self.folder),
            "revision": self.reader.revision,
            "read": round(self.reader.share, 3),
            "iteration": max((iteration for iteration, _ in newest.values()), default=0),
            "newest": {name: finite(value) for name, (_, value) in newest.items()},
            "advice": [vars(one) for one in advice],
            "logs": self._logs(),
        }

    @_while_nothing_is_read
    def curve(self, name: str, points: int, first: float | None, last: float | None) -> dict[str, Any]:
        """A metric, or with ENGINES in front an engine's number, between two iterations."""
        columns = self.reader.loads if name.startswith(ENGINES) else self.reader.metrics
        return vars(columns.curve(name, points, first, last))

    @_while_nothing_is_read
    def timeline(self, start: float | None, end: float | None) -> dict[str, Any]:
        """Lanes of a window, in seconds since the first span; of the newest spans where none is given."""
        spans = self.reader.spans
        whole = spans.whole
        if whole is None:
            return {"whole": None, "lanes": []}
        zero, last = whole
        newest = spans.end_of_last(max(_NEWEST_SPANS, _OF_EACH_KIND * spans.kinds)) or whole
        first = zero + start if start is not None else newest[0]
        until = zero + end if end is not None else newest[1]
        until = max(until, first + 1e-3)
        return {"whole": last - zero, "start": first - zero, "end": until - zero, "lanes": spans.lanes(first, until)}

    @_while_nothing_is_read
    def engines(self) -> list[dict[str, Any]]:
        """The newest load of each engine that still tells one, and how often it was started again.

        One that is back at another address has a row for that alone.
        """
        columns, found = self.reader.loads, dict[str, dict[str, Any]]()
        for name in columns.names:
            address, _, number = name.removeprefix(ENGINES).rpartition("/")
            last = columns.last(name)
            if last is not None:
                found.setdefault(address, {"engine": address, "iteration": last[0]})[number] = finite(last[1])
        newest = max((engine["iteration"] for engine in found.values()), default=0)
        found = {address: engine for address, engine in found.items() if engine["iteration"] == newest}
        for address, engine in found.items():
            restarts = self.reader.metrics.last(RESTARTS + address)
            engine["restarts"] = 0 if restarts is None else int(restarts[1])
        return list(found.values())

    @_while_nothing_is_read
    def fates(self) -> str:
        """What became of prompts and tokens, as the report shows it: HTML made of numbers and known words."""
        columns, row = self.reader.metrics, dict[str, float]()
        for name in columns.names:
            if name.startswith(_TOTALS):
                row[name] = columns.total(name)
            elif name.startswith(_ACCOUNTS) and (last := columns.last(name)) is not None:
                row[name] = last[1]
        return fates([row])

    def groups(self, iteration: int | None) -> dict[str, Any]:
        """The groups of a stored iteration; of the newest where none is given. UserError where it is not stored."""
        stored = self._stored.iterations()
        if iteration is None and not stored:
            return {"iteration": None, "stored": [], "groups": []}
        chosen = stored[-1] if iteration is None else iteration
        return {"iteration": chosen, "stored": _ends(stored), "groups": self._stored.groups(chosen)[:_GROUPS]}

    def sample(self, iteration: int, row: int) -> dict[str, Any]:
        """One sample, token by token. UserError where it is not stored."""
        return self._stored.sample(iteration, row)

    def log(self, name: str) -> list[str]:
        """The last lines of a log; none of a file that is not one of the run's logs."""
        if name not in self._logs():
            return []
        lines = end_lines(self.folder / "logs" / name, _LINES, _BYTES)
        return [line.decode("utf-8", errors="replace")[:2000] for line in lines]

    def _logs(self) -> list[str]:
        folder = self.folder / "logs"
        files = sorted(path for path in folder.rglob("*.log") if os.path.isfile(path) and not os.path.islink(path))
        return [str(path.relative_to(folder)) for path in files[:500]]


def _ends(iterations: list[int]) -> list[int]:
    """The first and the last; [] without any."""
    return [iterations[0], iterations[-1]] if iterations else []

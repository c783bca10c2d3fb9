"""The contract of a tracker: it takes whatever a run measures, and can be closed twice."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable
from pathlib import Path

from rlscale.config.schema.tracker_config import TrackerConfig
from rlscale.observe.trackers import TrackedRun, Tracker
from rlscale.run.contracts.methods import report_methods
from rlscale.trainer.hook_contract.findings import Finding, reported

_METRICS = {"loss": 0.25, "eval/pass@1": 0.5, "seconds_loop": 1e-9, "steps": 4, "bad": math.nan, "worse": math.inf}


def check_tracker_class(build: Callable[[TrackedRun], Tracker]) -> list[Finding]:
    """One finding per check of a tracker, built for a new run and for one that is continued."""
    with reported() as report, tempfile.TemporaryDirectory() as folder:
        for resumed in (None, 2):
            where = "a new run" if resumed is None else "a continued run"
            path = Path(folder) / "recipe" / f"run-{resumed}"
            path.mkdir(parents=True)
            run = TrackedRun(path, TrackerConfig(), {"optim": {"lr": 1e-4}}, resumed)
            tracker = report.call(f"built for {where}", build, run)
            report_methods(report, tracker, Tracker)
            for iteration in (3, 4):
                given = dict(_METRICS)
                report.call(f"log of {where}", tracker.log, iteration, given)
                same = repr(given) == repr(_METRICS)
                report.add("arguments", "the metrics stay as they were", same, "they do" if same else f"{given}")
            report.call(f"log of nothing in {where}", tracker.log, 5, {})
            report.call("close", tracker.close)
            report.call("close again", tracker.close)
    return report.findings

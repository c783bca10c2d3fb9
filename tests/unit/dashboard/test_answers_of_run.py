"""What the page is told of a run's engines."""

from __future__ import annotations

import os
from pathlib import Path

from rlscale.dashboard.answers_of_run import RunAnswers
from rlscale.observe.load_log import EngineLoadLog
from rlscale.observe.metrics import MetricsLog


def test_an_engine_that_came_back_at_another_address_is_told_once(tmp_path: Path) -> None:
    loads, log, load = EngineLoadLog(tmp_path), MetricsLog(tmp_path), {"running": 1.0}
    loads.log(1, {"http://127.0.0.1:1": load, "http://127.0.0.1:2": load})
    loads.log(2, {"http://127.0.0.1:1": load, "http://127.0.0.1:3": load})
    log.log(2, {"engine_restarts/127.0.0.1:3": 1.0})
    loads.close()
    log.close()
    answers = RunAnswers(tmp_path)
    assert answers.reader.refresh(5.0)
    assert [(one["engine"], one["restarts"]) for one in answers.engines()] == [("127.0.0.1:1", 0), ("127.0.0.1:3", 1)]


def test_pipes_in_the_place_of_a_runs_files_are_not_waited_for(tmp_path: Path) -> None:
    for name in ("run.json", "metrics.jsonl", "summary.json", "timeline.jsonl"):
        os.mkfifo(tmp_path / name)
    run = RunAnswers(tmp_path)
    assert run.reader.refresh(5.0)
    assert (run.about()["status"], run.about()["iteration"]) == ("running", 0)

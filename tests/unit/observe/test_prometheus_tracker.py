"""What Prometheus reads of a run, over HTTP."""

from __future__ import annotations

import urllib.request
from pathlib import Path

import pytest

from rlscale.config.composition.compose import compose
from rlscale.config.errors import UserError
from rlscale.observe.prometheus_tracker import PrometheusTracker
from rlscale.observe.trackers import TrackedRun, build_tracker, check_tracker
from rlscale.platform.ports import free_port
from tests.unit.listening import listening


def scraped(port: int) -> list[str]:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        return [line for line in answer.read().decode().splitlines() if not line.startswith("#")]


def test_the_newest_numbers_are_told_with_recipe_and_run(tmp_path: Path) -> None:
    port = free_port("127.0.0.1")
    config = compose(None, ["tracker=prometheus", f"tracker.known.prometheus.port={port}"]).tracker
    check_tracker(config)
    tracker = build_tracker(config, tmp_path / "anywhere" / "monday", run_config={"run": {"recipe": "arithmetic"}})
    try:
        tracker.log(1, {"reward": 0.25, "eval/pass@1": 0.5})
        tracker.log(2, {"reward": 0.75, "loss": float("nan"), "note": "no number"})
        assert listening(port) == ["127.0.0.1"]
        labels = '{recipe="arithmetic",run="monday"}'
        assert scraped(port) == [
            f"rlscale_reward{labels} 0.75",
            f"rlscale_eval_pass_1{labels} 0.5",
            f"rlscale_iteration{labels} 2.0",
        ]
    finally:
        tracker.close()
    with pytest.raises(OSError, match="refused"):
        scraped(port)


def test_a_port_that_is_taken_is_said_before_the_run(taken: int, tmp_path: Path) -> None:
    config = compose(None, ["tracker=prometheus", f"tracker.known.prometheus.port={taken}"]).tracker
    with pytest.raises(UserError, match=f"127.0.0.1:{taken} cannot be listened on .*tracker.known.prometheus.port"):
        check_tracker(config)
    with pytest.raises(UserError, match=f"127.0.0.1:{taken} cannot be listened on .*tracker.known.prometheus.port"):
        PrometheusTracker(TrackedRun(tmp_path, config), port=taken)

"""Every component of a run is exchanged by its `_target_`, and works in its place."""

from __future__ import annotations

import collections
import shutil
from pathlib import Path

from tests.e2e.run.command import SHORT, metrics, only_run, run

NODES = {
    "trainer": "OwnTrainer",
    "rollout": "OwnService",
    "buffer": "OwnBuffer",
    "rollout.engine": "OwnLauncher",
    "rollout.filter": "OwnFilter",
    "weights.transport": "OwnTransport",
    "loop": "own_loop",
    "tracker.known.mine": "OwnTracker",
}


def test_classes_of_ones_own_stand_in_the_place_of_every_component(ready: list[str], tmp_path: Path):
    shutil.copy(Path(__file__).with_name("own_components.py"), tmp_path)
    overrides = ["tracker.kinds=[mine]"]
    for key, name in NODES.items():
        inside = f"{key}.arguments" if key in ("trainer", "rollout") else key
        overrides += [f"{key}._target_=own_components.{name}", f"{inside}.marks={tmp_path}"]
    ended = run(tmp_path, *SHORT, *overrides, *ready)
    assert ended.code == 0, ended.text
    marks = collections.Counter((tmp_path / "marks.txt").read_text().splitlines())
    assert marks == {
        "trainer": 2,
        "service": 2,
        "launcher": 1,
        "buffer": 8,
        "filter": 9,  # one group was rejected, and another one generated
        "transport": 3,
        "loop": 1,
        "tracker 7": 2,
        "tracker closed": 1,
    }
    assert [line["own_number"] for line in metrics(only_run(tmp_path)) if "own_number" in line] == [7.0, 7.0]

"""What can be known of a run's checkpoints before any of its processes is there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rlscale.config.errors import UserError
from rlscale.run.disk.checkpoint import MANIFEST, CheckpointStore, Progress, sealed
from rlscale.run.disk.resume import check_resumable


@pytest.fixture
def run(tmp_path: Path) -> Path:
    store = CheckpointStore(tmp_path / "checkpoints", keep=2)
    for iteration in (1, 2):
        begun = store.begin(Progress(iteration), "abc", None)
        begun.trainer.mkdir()
        (begun.trainer / "weights").write_text("0123456789")
        store.complete(begun)
    return tmp_path


def change(run: Path, iteration: int, **changes: Any) -> None:
    file = run / "checkpoints" / f"iteration_{iteration:06d}" / MANIFEST
    facts = {**json.loads(file.read_text()), **changes}
    del facts["checksum"]
    file.write_text(json.dumps(sealed(facts)))


def test_a_run_goes_on_from_a_whole_checkpoint_and_from_none(run: Path, tmp_path: Path) -> None:
    check_resumable(run, "abc")
    check_resumable(tmp_path / "new", "abc")
    (run / "checkpoints/iteration_000002/trainer/weights").write_text("cut")
    check_resumable(run, "abc")


def test_when_no_checkpoint_is_whole_each_is_named_with_its_fault(run: Path) -> None:
    for file in run.glob("checkpoints/*/trainer/weights"):
        file.write_text("cut")
    with pytest.raises(UserError, match=r"iteration_000001: .* has 3 bytes .*; iteration_000002: .*resume=never"):
        check_resumable(run, "abc")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"progress": [1]}, "another version of rlscale"),
        ({"progress": {"iteration": "two"}}, "another version of rlscale"),
        ({"config_hash": "def"}, "belongs to a run with a different configuration"),
    ],
)
def test_a_newest_checkpoint_that_is_not_of_this_run_is_refused(run: Path, changes: Any, message: str) -> None:
    change(run, 2, **changes)
    with pytest.raises(UserError, match=f"iteration_000002 .*{message}"):
        check_resumable(run, "abc")

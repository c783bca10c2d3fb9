from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from rlscale.config.errors import UserError
from rlscale.config.schema.tracker_config import TrackerConfig
from rlscale.observe.trackers import (
    TensorBoardTracker,
    TrackedRun,
    Tracker,
    WandbTracker,
    build_tracker,
    check_tracker,
)
from rlscale.run.contracts import check_tracker_class
from rlscale.trainer.hook_contract.findings import failed


def read_scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder))
    events.Reload()
    tags = events.Tags()
    found = {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in tags["scalars"]}
    for tag in tags["tensors"]:
        found[tag] = [(e.step, e.tensor_proto.float_val[0]) for e in events.Tensors(tag)]
    return found


def test_no_tracker_writes_nothing(tmp_path: Path) -> None:
    tracker = build_tracker(TrackerConfig(), tmp_path)
    tracker.log(1, {"loss": 1.0})
    tracker.close()
    assert list(tmp_path.iterdir()) == []


def test_tensorboard_reads_back_what_was_logged(tmp_path: Path) -> None:
    config = TrackerConfig(kinds=["tensorboard"])
    tracker = build_tracker(config, tmp_path)
    tracker.log(1, {"loss": 1.0, "reward": 0.25, "note": "no number", "bad": float("nan")})
    tracker.log(2, {"loss": 0.5})
    tracker.close()
    tracker.close()
    scalars = read_scalars(tmp_path / "tensorboard")
    assert scalars == {"loss": [(1, 1.0), (2, 0.5)], "reward": [(1, 0.25)]}


def test_a_continued_run_replaces_the_points_of_the_earlier_attempt(tmp_path: Path) -> None:
    config = TrackerConfig(kinds=["tensorboard"])
    first = build_tracker(config, tmp_path)
    for i in (1, 2, 3):
        first.log(i, {"loss": float(i)})
    first.close()
    second = build_tracker(config, tmp_path, resumed=1)
    second.log(2, {"loss": 20.0})
    second.close()
    assert read_scalars(tmp_path / "tensorboard")["loss"] == [(1, 1.0), (2, 20.0)]


def test_weights_and_biases_offline_writes_below_the_runs_folder_beside_tensorboard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    config = TrackerConfig(kinds=["tensorboard", "wandb"], name="a name")
    tracker = build_tracker(config, tmp_path, run_config={"optim": {"lr": 1e-4}})
    tracker.log(1, {"loss": 1.0})
    tracker.log(2, {"loss": 0.5})
    tracker.log(1, {"eval/pass@1": 0.25})  # by engines that were slower than an iteration
    tracker.close()
    (record,) = tmp_path.glob("wandb/offline-run-*/run-*.wandb")
    content = record.read_bytes()
    assert b"a name" in content
    assert content.count(b"eval/pass@1") >= 1, "a step that goes back is dropped"
    assert b"eval/iteration" in content
    assert b"loss" in content
    assert record.name == f"run-{(tmp_path / 'tracker_id').read_text().strip()}.wandb"
    assert not (tmp_path / "home").exists()
    assert read_scalars(tmp_path / "tensorboard") == {"loss": [(1, 1.0), (2, 0.5)], "eval/pass@1": [(1, 0.25)]}


def test_a_run_is_known_by_what_its_folder_holds_and_not_by_its_path(tmp_path: Path) -> None:
    """Two machines have the same path, and a folder is moved before its run goes on."""
    path = tmp_path / "arithmetic" / "run"
    path.mkdir(parents=True)
    first = TrackedRun(path, TrackerConfig()).id
    assert TrackedRun(path, TrackerConfig(), resumed=3).id == first
    moved = path.rename(tmp_path / os.fsdecode(b"moved-\xff"))  # a name that is no UTF-8
    path.mkdir()
    assert TrackedRun(moved, TrackerConfig(), resumed=3).id == first
    assert TrackedRun(path, TrackerConfig()).id != first


@pytest.mark.parametrize("text", [b"", b"\xff\xfe", b"0123456789abcde'", b"0123456789abcdef0", b"0123 56789abcdef"])
def test_a_file_that_does_not_hold_the_runs_id_is_refused_by_name(text: bytes, tmp_path: Path) -> None:
    """It would become a part of what a service is asked."""
    (tmp_path / "tracker_id").write_bytes(text)
    with pytest.raises(UserError, match="tracker_id does not hold the 16 digits"):
        _ = TrackedRun(tmp_path, TrackerConfig()).id
    (tmp_path / "tracker_id").write_bytes(b"0123456789abcdef\n")
    assert TrackedRun(tmp_path, TrackerConfig()).id == "0123456789abcdef"


def test_an_id_that_the_disk_refuses_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "tracker_id").mkdir()
    with pytest.raises(UserError, match=r"tracker_id: by which trackers know the run cannot be written or read \("):
        _ = TrackedRun(tmp_path, TrackerConfig()).id


@pytest.mark.parametrize("kind", [TensorBoardTracker, WandbTracker])
def test_the_shipped_trackers_keep_the_contract(
    kind: Callable[[TrackedRun], Tracker], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert not failed(check_tracker_class(kind))


ONLINE = TrackerConfig(kinds=["wandb"], offline=False)


@pytest.fixture
def nobody_logged_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home folder without a key, which wandb looks into."""
    for name in ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    return tmp_path


def test_weights_and_biases_online_without_a_key_is_one_line_before_the_run(nobody_logged_in: Path) -> None:
    with pytest.raises(UserError, match=r"^tracker.offline=false: there is no key for https://\S+; log in"):
        check_tracker(ONLINE)
    check_tracker(replace(ONLINE, offline=True))


def test_a_key_is_found_where_wandb_login_leaves_it_and_in_the_environment(
    nobody_logged_in: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = "0" * 40
    (nobody_logged_in / "netrc").write_text(f"machine api.wandb.ai\n  login user\n  password {key}\n")
    check_tracker(ONLINE)
    (nobody_logged_in / "netrc").unlink()
    monkeypatch.setenv("WANDB_API_KEY", key)
    check_tracker(ONLINE)
    monkeypatch.setenv("WANDB_API_KEY", "short")
    with pytest.raises(UserError, match="WANDB_API_KEY invalid"):
        check_tracker(ONLINE)

"""Whole checkpoints only, and never fewer than before."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from rlscale.config.errors import UserError
from rlscale.run.disk.checkpoint import CheckpointFailed, CheckpointStore, Progress, load_progress, load_rollout
from rlscale.run.processes.run_failed import RunFailed
from rlscale.run.sessions.saver import Saver, SaverWithRanks
from rlscale.run.sides.trainer_group import RanksLost


class Trainer:
    """Writes one file; says `slow` times that it is not done, and raises what `fails` holds for a method, once."""

    def __init__(self, slow: int = 0, fails: dict[str, Exception] | None = None) -> None:
        self.slow, self.fails = slow, fails or {}
        self.copied: list[bool] = []
        self.losses = 0
        self.begins_with: Path | None = None

    def doing(self) -> str:
        return "rank 0 is in fsync (os.py:1)"

    def begin_save(self, folder: Path, copy: bool) -> None:
        folder.mkdir()
        (folder / "weights.bin").write_bytes(b"12345678")
        self.copied.append(copy)
        self._fail("begin_save")

    def is_saved(self) -> bool:
        self._fail("is_saved")
        self.slow -= 1
        return self.slow < 0

    def finish_save(self) -> None:
        self._fail("finish_save")

    def saved(self, checkpoint: Path) -> None:
        self.begins_with = checkpoint

    def _fail(self, method: str) -> None:
        if (error := self.fails.pop(method, None)) is not None:
            self.losses += isinstance(error, RanksLost)
            raise error


def saver(folder: Path, keep: int = 2, trainer: Trainer | None = None, timeout_s: float = 10.0) -> Saver:
    any_trainer: Any = trainer or Trainer()
    return SaverWithRanks(CheckpointStore(folder, keep), "hash", any_trainer, timeout_s)


def save(saver: Saver, iteration: int) -> Path:
    saver.begin(Progress(iteration=iteration, version=iteration), {"next": iteration}, copy=False)
    whole = saver.finish(wait=True)
    assert whole is not None
    return whole


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    path = save(saver(tmp_path), 3)
    assert CheckpointStore(tmp_path, keep=2).newest() == path
    assert load_progress(path) == Progress(iteration=3, version=3)
    assert load_rollout(path) == {"next": 3}


def test_only_the_newest_are_kept(tmp_path: Path) -> None:
    saving = saver(tmp_path, keep=2)
    for iteration in (1, 2, 3):
        save(saving, iteration)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["iteration_000002", "iteration_000003"]


def test_copies_by_other_names_are_none_of_the_newest_and_stay(tmp_path: Path) -> None:
    saving = saver(tmp_path, keep=1)
    for copy in ("iteration_best", "iteration_7", "iteration_000030.bak"):
        shutil.copytree(save(saving, 10), tmp_path / copy)
    newest = save(saving, 20)
    assert (saving.store.all(), saving.store.newest()) == ([newest], newest)
    assert {path.name for path in tmp_path.glob("iteration_*")} == {
        newest.name, "iteration_best", "iteration_7", "iteration_000030.bak"
    }  # fmt: skip


def test_the_millionth_iteration_is_newer_than_the_one_before(tmp_path: Path) -> None:
    saving = saver(tmp_path, keep=1)
    save(saving, 999_999)
    newest = save(saving, 1_000_000)
    assert (saving.store.newest(), newest.name) == (newest, "iteration_1000000")


def test_a_cut_off_file_makes_a_checkpoint_incomplete(tmp_path: Path) -> None:
    saving = saver(tmp_path, keep=3)
    older, newer = save(saving, 1), save(saving, 2)
    (newer / "trainer" / "weights.bin").write_bytes(b"1234")
    assert CheckpointStore(tmp_path, keep=3).newest() == older


def test_a_checkpoint_without_a_manifest_is_never_taken(tmp_path: Path) -> None:
    saving = saver(tmp_path, keep=3)
    older, newer = save(saving, 1), save(saving, 2)
    (newer / "manifest.json").unlink()
    assert CheckpointStore(tmp_path, keep=3).newest() == older


def test_a_checkpoint_becomes_whole_only_when_every_rank_has_written(tmp_path: Path) -> None:
    saving, store = saver(tmp_path, trainer=Trainer(slow=2)), CheckpointStore(tmp_path, keep=2)
    progress = Progress(iteration=1, recent_losses=[0.5])
    saving.begin(progress, None, copy=True)
    progress.iteration, progress.recent_losses[0] = 2, 0.1  # the run goes on
    for _ in range(2):
        assert saving.finish(wait=False) is None
        assert (saving.busy, store.newest()) == (True, None)
    assert saving.finish(wait=False) == store.newest()
    assert not saving.busy
    newest = store.newest()
    assert newest is not None
    assert load_progress(newest) == Progress(iteration=1, recent_losses=[0.5])


def test_a_link_of_the_name_of_what_is_half_written_leads_no_writing_elsewhere(tmp_path: Path) -> None:
    elsewhere, folder = tmp_path / "elsewhere", tmp_path / "checkpoints"
    for one in (elsewhere, folder):
        one.mkdir()
    (folder / "partial-iteration_000001").symlink_to(elsewhere)
    assert not save(saver(folder), 1).is_symlink()
    assert list(elsewhere.iterdir()) == []


def test_what_a_killed_run_left_half_written_is_removed(tmp_path: Path) -> None:
    saver(tmp_path).begin(Progress(iteration=1), None, copy=True)
    assert [path.name for path in tmp_path.iterdir()] == ["partial-iteration_000001"]
    path = save(saver(tmp_path), 2)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("method", ["begin_save", "finish_save"])
def test_a_rank_whose_disk_is_full_is_one_line_and_leaves_the_older_checkpoint(tmp_path: Path, method: str) -> None:
    trainer = Trainer()
    saving = saver(tmp_path, keep=1, trainer=trainer)
    older = save(saving, 1)
    trainer.fails = {method: UserError("rank 1: [Errno 28] No space left on device")}
    with pytest.raises(CheckpointFailed, match=r"iteration_000002 could not be written \(rank 1: .* No space left"):
        save(saving, 2)
    assert list(tmp_path.iterdir()) == [older]
    newer = save(saving, 3)
    assert list(tmp_path.iterdir()) == [newer]


def test_a_disk_that_is_full_for_the_driver_leaves_the_older_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saving = saver(tmp_path)
    older = save(saving, 1)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("rlscale.run.disk.checkpoint.write_json", full)
    with pytest.raises(CheckpointFailed, match="No space left on device"):
        save(saving, 2)
    assert list(tmp_path.iterdir()) == [older]


def test_a_rank_that_died_is_no_matter_of_the_disk(tmp_path: Path) -> None:
    saving = saver(tmp_path, trainer=Trainer(fails={"is_saved": RunFailed("the process died")}))
    with pytest.raises(RunFailed, match="the process died"):
        save(saving, 1)


def test_ranks_that_are_lost_as_they_begin_are_followed_by_others_that_write(tmp_path: Path) -> None:
    trainer = Trainer(fails={"begin_save": RanksLost("a rank died")})
    path = save(saver(tmp_path, trainer=trainer), 3)
    assert (trainer.copied, trainer.begins_with) == ([False, False], path)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("method", ["is_saved", "finish_save", "train"])
def test_what_lost_ranks_wrote_never_becomes_a_checkpoint(tmp_path: Path, method: str) -> None:
    """Their successors would say that they have nothing left to write."""
    trainer = Trainer()
    saving = saver(tmp_path, trainer=trainer)
    older = save(saving, 1)
    trainer.fails = {method: RanksLost("a rank died")}
    saving.begin(Progress(iteration=2), None, copy=True)
    trainer.losses += method == "train"  # between two looks
    with pytest.raises(CheckpointFailed, match="iteration_000002 could not be written"):
        saving.finish(wait=True)
    assert (saving.busy, list(tmp_path.iterdir()), trainer.begins_with) == (False, [older], older)


def test_a_rank_that_writes_for_ever_is_reported(tmp_path: Path) -> None:
    with pytest.raises(RunFailed, match=r"not written within 0 s \(cluster\.call_timeout_s\)\. rank 0 is in fs"):
        save(saver(tmp_path, trainer=Trainer(slow=10**6), timeout_s=0.0), 1)


def test_saving_the_same_iteration_again_replaces_it(tmp_path: Path) -> None:
    saving = saver(tmp_path)
    save(saving, 1)
    saving.begin(Progress(iteration=1, version=9), None, copy=False)
    newest = saving.finish(wait=True)
    assert newest is not None
    assert load_progress(newest).version == 9


def test_an_older_checkpoint_of_the_same_iteration_stays_when_the_new_one_cannot_take_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saving = saver(tmp_path)
    save(saving, 1)
    saving.begin(Progress(iteration=1, version=9), None, copy=False)
    rename = Path.rename

    def refuse_the_new_one(path: Path, target: Path) -> Path:
        if path.name == "partial-iteration_000001":
            raise OSError("no")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", refuse_the_new_one)
    with pytest.raises(CheckpointFailed, match="could not be written"):
        saving.finish(wait=True)
    (kept,) = tmp_path.iterdir()
    assert load_progress(kept).version != 9


def test_an_old_checkpoint_that_cannot_be_removed_is_a_note_and_the_new_one_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    notes: list[str] = []
    store = CheckpointStore(tmp_path, 1, note=notes.append)
    saving = Saver(store, "hash")
    save(saving, 1)

    def refuse(path: Path, ignore_errors: bool = False) -> None:
        if not ignore_errors:
            raise OSError(16, "Device or resource busy")

    monkeypatch.setattr("rlscale.run.disk.checkpoint.shutil.rmtree", refuse)
    newer = save(saving, 2)
    assert store.newest() == newer
    assert notes == [
        f"old checkpoints in {tmp_path} could not be removed ([Errno 16] Device or resource busy); the new one is whole"
    ]

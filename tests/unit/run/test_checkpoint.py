"""Whole checkpoints only, and never fewer than before."""

from pathlib import Path

import pytest

from rlscale.config.errors import UserError
from rlscale.run.checkpoint import CheckpointStore, Progress, load_progress, load_rollout


def write_trainer(folder: Path) -> None:
    folder.mkdir()
    (folder / "weights.bin").write_bytes(b"12345678")


def save(store: CheckpointStore, iteration: int) -> Path:
    return store.save(Progress(iteration=iteration, version=iteration), "hash", write_trainer, {"next": iteration})


def test_what_is_saved_is_loaded(tmp_path: Path):
    store = CheckpointStore(tmp_path, keep=2)
    path = save(store, 3)
    assert store.newest() == path
    assert load_progress(path) == Progress(iteration=3, version=3)
    assert load_rollout(path) == {"next": 3}


def test_only_the_newest_are_kept(tmp_path: Path):
    store = CheckpointStore(tmp_path, keep=2)
    for iteration in (1, 2, 3):
        save(store, iteration)
    assert [path.name for path in store.whole()] == ["iteration_000002", "iteration_000003"]


def test_a_cut_off_file_makes_a_checkpoint_incomplete(tmp_path: Path):
    store = CheckpointStore(tmp_path, keep=3)
    older, newer = save(store, 1), save(store, 2)
    (newer / "trainer" / "weights.bin").write_bytes(b"1234")
    assert store.newest() == older


def test_a_checkpoint_without_a_manifest_is_never_taken(tmp_path: Path):
    store = CheckpointStore(tmp_path, keep=3)
    older, newer = save(store, 1), save(store, 2)
    (newer / "manifest.json").unlink()
    assert store.newest() == older


def test_a_failing_write_is_one_line_and_leaves_the_older_checkpoint(tmp_path: Path):
    store = CheckpointStore(tmp_path, keep=1)
    older = save(store, 1)

    def full(folder: Path) -> None:
        folder.mkdir()
        raise OSError(28, "No space left on device")

    with pytest.raises(UserError, match="No space left on device"):
        store.save(Progress(iteration=2), "hash", full, None)
    assert store.newest() == older
    assert [path.name for path in tmp_path.iterdir()] == [older.name]


def test_saving_the_same_iteration_again_replaces_it(tmp_path: Path):
    store = CheckpointStore(tmp_path, keep=2)
    save(store, 1)
    store.save(Progress(iteration=1, version=9), "hash", write_trainer, None)
    newest = store.newest()
    assert newest is not None
    assert load_progress(newest).version == 9

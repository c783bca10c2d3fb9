"""Which checkpoint a run continues from, and what it says of those that it does not take."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from rlscale.config.errors import UserError
from rlscale.run.disk.checkpoint import (
    CheckpointStore,
    Progress,
    fault_of,
    load_progress,
    read_manifest,
    sealed,
    sums_of,
)
from rlscale.run.disk.resume import usable_checkpoint
from rlscale.run.disk.run_folder import MARK, read_mark
from rlscale.trainer.checksums import checksum, damaged
from tests.unit.run.disk.test_checkpoint import save, saver

WEIGHTS = "trainer/weights.bin"


def chosen(folder: Path) -> tuple[Path | None, list[str]]:
    """The checkpoint that a run in `folder` continues from, and its notes."""
    notes: list[str] = []
    return usable_checkpoint(CheckpointStore(folder, keep=2), damaged, notes.append), notes


def change_manifest(checkpoint: Path, **changed: object) -> None:
    file = checkpoint / "manifest.json"
    facts = {**json.loads(file.read_text()), **changed}
    del facts["checksum"]
    file.write_text(json.dumps(sealed(facts)))


def test_a_file_that_was_damaged_at_unchanged_size_is_found_and_an_older_checkpoint_taken(tmp_path: Path) -> None:
    older, newer = save(saver(tmp_path), 1), save(saver(tmp_path), 2)
    (newer / WEIGHTS).write_bytes(b"12340678")
    assert chosen(tmp_path) == (
        older,
        [
            f"{newer} is skipped: {WEIGHTS} is not what was written (its checksum differs, or it cannot be read)",
            f"{newer} is called skipped-iteration_000002 from now on: nothing goes on from it",
        ],
    )


def test_a_checkpoint_that_cannot_be_read_for_a_while_is_not_gone_on_from_later(tmp_path: Path) -> None:
    """The run has gone another way since."""
    saving = saver(tmp_path)
    older, newer = save(saving, 30), save(saving, 40)
    for number in ("", "-2"):
        content = (newer / WEIGHTS).read_bytes()
        (newer / WEIGHTS).write_bytes(b"12340678")
        assert chosen(tmp_path)[0] == older
        aside = tmp_path / f"skipped-iteration_000040{number}"
        (aside / WEIGHTS).write_bytes(content)
        assert chosen(tmp_path) == (older, [])
        if not number:
            assert save(saving, 40) == newer


@pytest.mark.parametrize("name", [WEIGHTS, "trainer", "manifest.json"])
def test_a_part_that_was_moved_and_linked_is_no_damage_and_refused_by_name(tmp_path: Path, name: str) -> None:
    newer = save(saver(tmp_path / "checkpoints"), 2)
    shutil.move(newer / name, tmp_path / "elsewhere")
    (newer / name).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match=rf"{newer / name} is a link out of the checkpoint"):
        chosen(tmp_path / "checkpoints")
    assert newer.exists()
    (newer / name).unlink()
    shutil.move(tmp_path / "elsewhere", newer / name)
    assert chosen(tmp_path / "checkpoints") == (newer, [])


@pytest.mark.parametrize("name", ["/bin/sh", "../x", "x" * 300, "a\0b", ""])
def test_a_name_that_is_none_of_a_file_inside_is_damage(tmp_path: Path, name: str) -> None:
    older, newer = save(saver(tmp_path), 1), save(saver(tmp_path), 2)
    change_manifest(newer, files={name: 3})
    found, notes = chosen(tmp_path)
    assert (found, len(notes)) == (older, 2)


def test_a_link_of_which_the_manifest_knows_nothing_and_one_that_stays_inside_are_nobody_s_business(
    tmp_path: Path,
) -> None:
    newer = save(saver(tmp_path), 2)
    (newer / "note").symlink_to("/etc/hostname")
    (newer / WEIGHTS).rename(newer / "trainer" / "moved")
    (newer / WEIGHTS).symlink_to("moved")
    assert chosen(tmp_path) == (newer, [])


def test_one_that_cannot_be_moved_out_of_the_way_ends_the_run_in_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, newer = save(saver(tmp_path), 1), save(saver(tmp_path), 2)
    (newer / WEIGHTS).unlink()

    def refuse(path: Path, target: Path) -> Path:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(UserError, match=r"iteration_000002 cannot be used, and not be moved either .*Read-only"):
        chosen(tmp_path)


def test_one_that_had_made_way_and_cannot_take_its_place_is_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "partial-replaced-iteration_000005").mkdir()

    def refuse(path: Path, target: Path) -> Path:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(UserError, match=r"a checkpoint there cannot be moved to its place .*Read-only"):
        chosen(tmp_path)


def test_a_checkpoint_that_had_made_way_when_all_was_killed_is_there_again(tmp_path: Path) -> None:
    only = save(saver(tmp_path), 5)
    only.rename(tmp_path / f"partial-replaced-{only.name}")
    (tmp_path / f"partial-{only.name}").mkdir()
    assert chosen(tmp_path) == (only, [])
    only.rename(tmp_path / f"partial-replaced-{only.name}")
    assert save(saver(tmp_path), 6).is_dir()
    assert only.is_dir()


@pytest.mark.parametrize(
    ("harm", "reason"),
    [
        (lambda at: (at / WEIGHTS).write_bytes(b"1234"), "has 4 bytes instead of 8"),
        (lambda at: (at / WEIGHTS).unlink(), "cannot be read (No such file or directory)"),
        (lambda at: (at / "manifest.json").unlink(), "it has no manifest.json"),
        (lambda at: (at / "manifest.json").write_text("[]"), "manifest.json is not one that rlscale writes"),
        (lambda at: (at / "manifest.json").write_text('{"files": {"a": "b"}}'), "is not one that rlscale writes"),
        (lambda at: (at / "manifest.json").write_text("{"), "manifest.json cannot be read (Expecting property name"),
    ],
)
def test_a_checkpoint_that_is_skipped_is_one_note_and_without_another_an_error(
    tmp_path: Path, harm: object, reason: str
) -> None:
    """Never a silent start from iteration 0."""
    checkpoint = save(saver(tmp_path), 3)
    assert callable(harm)
    harm(checkpoint)
    notes: list[str] = []
    with pytest.raises(UserError, match=r"none of the 1 checkpoints in .* checkpoint\.resume=never starts afresh"):
        usable_checkpoint(CheckpointStore(tmp_path, keep=2), damaged, notes.append)
    (note,) = notes
    assert note.startswith(f"{checkpoint} is skipped: ")
    assert reason in note


def test_a_file_that_the_disk_does_not_give_back_is_damage_and_an_older_checkpoint_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    older, newer = save(saver(tmp_path), 1), save(saver(tmp_path), 2)
    refuse_to_read(newer / WEIGHTS, monkeypatch)
    taken, (note, _) = chosen(tmp_path)
    assert (taken, note.startswith(f"{newer} is skipped: {WEIGHTS} is not what was written")) == (older, True)


def refuse_to_read(refused: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bad sector: the file is there, has its size, and cannot be read."""

    def read(file: Path) -> str:
        if file == refused:
            raise OSError(5, "Input/output error")
        return checksum(file)

    monkeypatch.setattr("rlscale.trainer.checksums.checksum", read)


def test_no_byte_of_a_manifest_can_change_what_it_says(tmp_path: Path) -> None:
    checkpoint = save(saver(tmp_path), 3)
    file, said = checkpoint / "manifest.json", read_manifest(checkpoint)
    content = file.read_bytes()
    silent = []
    for at in range(len(content)):
        file.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
        if fault_of(checkpoint) is None and read_manifest(checkpoint) != said:
            silent.append(at)
    assert silent == []
    change_digit = content.replace(b'"version": 3', b'"version": 4')
    file.write_bytes(change_digit)
    assert fault_of(checkpoint) == "manifest.json is not what was written (the checksum differs)"


def test_a_manifest_of_another_iteration_than_its_folders_is_a_fault(tmp_path: Path) -> None:
    moved = save(saver(tmp_path), 3).rename(tmp_path / "iteration_000004")
    assert fault_of(moved) == "manifest.json is of iteration 3, and the folder's name of 4"
    assert fault_of(moved.rename(tmp_path / "the-good-one")) is None


def test_a_manifest_without_a_checksum_of_its_own_is_taken_with_a_note(tmp_path: Path) -> None:
    checkpoint = save(saver(tmp_path), 1)
    file = checkpoint / "manifest.json"
    facts = json.loads(file.read_text())
    del facts["checksum"]
    file.write_text(json.dumps(facts))
    taken, (note,) = chosen(tmp_path)
    assert (taken, "has no checksum (an older version wrote it)" in note) == (checkpoint, True)


def test_a_run_without_checkpoints_begins(tmp_path: Path) -> None:
    assert chosen(tmp_path / "none") == (None, [])


def test_a_checkpoint_of_an_older_version_without_checksums_is_taken_with_a_note(tmp_path: Path) -> None:
    checkpoint = save(saver(tmp_path), 1)
    sizes = {name: (checkpoint / name).stat().st_size for name in sums_of(checkpoint)}
    change_manifest(checkpoint, files=sizes)
    taken, (note,) = chosen(tmp_path)
    assert taken == checkpoint
    assert "has no checksums" in note


def test_a_damaged_checkpoint_takes_no_place_among_those_that_are_kept(tmp_path: Path) -> None:
    saving = saver(tmp_path, keep=2)
    older, newer = save(saving, 1), save(saving, 5)
    (newer / WEIGHTS).write_bytes(b"12340678")
    store = saving.store
    assert usable_checkpoint(store, damaged, lambda note: None) == older
    between = save(saving, 3)
    assert store.whole() == [older, between]
    save(saving, 5)  # the run comes to it again, and writes it anew
    assert store.whole() == [between, newer]


def test_every_file_has_a_checksum_and_ranks_share_the_reading(tmp_path: Path) -> None:
    checkpoint = save(saver(tmp_path), 1)
    sums = sums_of(checkpoint)
    assert set(sums) == {"rollout.state", WEIGHTS}
    for name in sums:
        (checkpoint / name).write_bytes(b"other")
    shares = [damaged(checkpoint, sums, rank, 3) for rank in range(3)]
    assert sorted(map(len, shares)) == [0, 1, 1]
    assert {name for share in shares for name in share} == set(sums)


@pytest.mark.parametrize(
    "progress",
    [
        *(None, [], {"iteration": "four"}, {"iteration": 4, "colour": 1}, {"counters": {"tokens": "many"}}),
        *({"eval_owed": {"": "two"}}, {"eval_owed": [1]}),
    ],
)
def test_progress_of_another_shape_is_one_line(tmp_path: Path, progress: object) -> None:
    checkpoint = save(saver(tmp_path), 1)
    change_manifest(checkpoint, progress=progress)
    with pytest.raises(UserError, match=r"another version of rlscale; checkpoint\.resume=never starts afresh"):
        load_progress(checkpoint)
    assert load_progress(save(saver(tmp_path), 1)) == Progress(iteration=1, version=1)


def test_evaluations_that_an_older_checkpoint_owes_are_of_its_iteration(tmp_path: Path) -> None:
    checkpoint = save(saver(tmp_path), 4)
    change_manifest(checkpoint, progress={"iteration": 4, "eval_owed": ["", "small"]})
    assert load_progress(checkpoint).eval_owed == {"": 4, "small": 4}


@pytest.mark.parametrize(("text", "line"), [("[]", "is not one that rlscale writes"), ("{", "cannot be read")])
def test_a_run_json_of_another_shape_is_one_line(tmp_path: Path, text: str, line: str) -> None:
    (tmp_path / MARK).write_text(text)
    with pytest.raises(UserError, match=rf"{tmp_path}/run\.json {line}.*; choose another folder"):
        read_mark(tmp_path)

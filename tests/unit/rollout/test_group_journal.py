"""Which finished groups are written down, and which of them a run that continues can use."""

from __future__ import annotations

from pathlib import Path

import pytest

from rlscale.data.sample import Group
from rlscale.rollout.group_journal import GroupJournal, forget_groups
from tests.unit.rollout.test_group_records import group


def journal(folder: Path, bound: int = 1, ahead: int | None = None) -> GroupJournal:
    return GroupJournal(folder, bound, bound if ahead is None else ahead)


def again(folder: Path, batches: int, version: int, bound: int = 1, ahead: int | None = None) -> dict[int, list[int]]:
    """What a run that continues with weights of `version` uses: the versions of each group's tokens, by prompt."""
    one = journal(folder, bound, ahead)
    found = one.begin_anew(one.recover(batches), version)
    assert one.take_notes() == []
    return {index: versions(group) for index, group in found.items()}


def versions(group: Group) -> list[int]:
    return [int(v) for v in group.samples[0].versions[2:]]


def test_what_was_finished_before_any_checkpoint_is_there_after_a_kill(tmp_path: Path) -> None:
    killed = journal(tmp_path)
    killed.resumed(0)
    killed.add(group(3, 0))
    assert again(tmp_path, 0, 0) == {3: [0]}
    assert again(tmp_path, 0, 0) == {3: [0]}  # also after another kill


def test_only_what_was_finished_after_the_state_is_found(tmp_path: Path) -> None:
    killed = journal(tmp_path)
    killed.resumed(0)
    killed.add(group(0, 0))
    killed.saved(5)
    killed.add(group(1, 5))
    assert again(tmp_path, 5, 5) == {1: [5]}


def test_a_checkpoint_that_was_not_written_loses_nothing_of_the_one_before(tmp_path: Path) -> None:
    killed = journal(tmp_path)
    killed.saved(5)
    killed.resumed(5)
    killed.add(group(1, 5))
    killed.saved(6)
    killed.add(group(2, 5, 6))
    assert again(tmp_path, 5, 5, bound=2) == {1: [5], 2: [5, 4]}


@pytest.mark.parametrize(
    ("bound", "found"),
    [
        (0, {0: [7]}),
        (1, {0: [7], 1: [7, 6], 2: [6]}),
        (2, {0: [7], 1: [7, 6], 2: [6], 3: [5]}),
    ],
)
def test_later_weights_count_as_older_by_as_much_and_a_bound_of_0_takes_those_of_the_checkpoint_alone(
    tmp_path: Path, bound: int, found: dict[int, list[int]]
) -> None:
    """Version 8 is one update after 7 on a course that is lost: no nearer to the new one than 6 is."""
    killed = journal(tmp_path, bound=9)
    for index, of in enumerate(([7], [7, 8], [8], [9], [10])):
        killed.add(group(index, *of))
    assert again(tmp_path, 0, 7, bound) == found


def test_nothing_of_later_weights_is_used_where_old_weights_are_kept_for_log_probs(tmp_path: Path) -> None:
    killed = journal(tmp_path, bound=9)
    for index, of in enumerate(([6], [7], [8])):
        killed.add(group(index, *of))
    assert again(tmp_path, 0, 7, bound=2, ahead=0) == {0: [6], 1: [7]}


def test_what_would_count_as_older_than_the_first_weights_is_generated_again(tmp_path: Path) -> None:
    killed = journal(tmp_path, bound=9)
    killed.add(group(0, 2))
    assert again(tmp_path, 0, 0, bound=9) == {}


def test_a_second_kill_finds_the_groups_by_the_versions_that_they_count_as(tmp_path: Path) -> None:
    killed = journal(tmp_path, bound=2)
    killed.add(group(0, 8))
    second = journal(tmp_path, bound=2)
    assert list(second.begin_anew(second.recover(0), 7)) == [0]
    second.resumed(7)
    second.add(group(1, 8))
    assert again(tmp_path, 0, 7, bound=2) == {0: [6], 1: [6]}


def test_of_two_groups_of_a_prompt_the_younger_is_used(tmp_path: Path) -> None:
    killed = journal(tmp_path, bound=9)
    killed.add(group(0, 9))
    killed.add(group(0, 7))
    assert again(tmp_path, 0, 7, bound=9) == {0: [7]}


def test_groups_that_no_resumed_run_could_use_are_not_written(tmp_path: Path) -> None:
    one = journal(tmp_path, bound=1)
    one.saved(5)
    one.resumed(5)
    one.add(group(0, 6))
    size = sum(path.stat().st_size for path in tmp_path.iterdir())
    for version in (7, 8, 9):
        one.resumed(version)
        one.add(group(version, version))
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) == size
    one.saved(9)
    one.resumed(10)
    one.add(group(10, 10))
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) > size


def test_files_go_with_the_checkpoints_that_they_follow(tmp_path: Path) -> None:
    one = journal(tmp_path)
    for batches in (0, 5, 10):
        one.saved(batches)
        one.add(group(batches, 0))
    forget_groups(tmp_path, before=5)
    assert [path.name[:6] for path in sorted(tmp_path.iterdir())] == ["000005", "000010"]


def test_damage_is_said_and_what_is_whole_is_used(tmp_path: Path) -> None:
    killed = journal(tmp_path)
    killed.add(group(0, 0))
    killed.add(group(1, 0))
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:-1])
    one = journal(tmp_path)
    assert list(one.begin_anew(one.recover(0), 0)) == [0]
    (note,) = one.take_notes()
    assert note.startswith(f"{path} is cut off or changed after 1 groups, at byte ")
    assert note.endswith("; what is missing is generated again")


def test_a_disk_that_refuses_is_said_once_and_tried_again_after_the_next_state(tmp_path: Path) -> None:
    (tmp_path / "groups").touch()  # no folder
    one = journal(tmp_path / "groups")
    one.add(group(0, 0))
    one.add(group(1, 0))
    (note,) = one.take_notes()
    assert "finished groups cannot be written to" in note
    (tmp_path / "groups").unlink()
    one.add(group(2, 0))
    assert not (tmp_path / "groups").exists()
    one.saved(1)
    one.add(group(3, 0))
    assert [g.prompt.index for g in journal(tmp_path / "groups").recover(1)] == [3]

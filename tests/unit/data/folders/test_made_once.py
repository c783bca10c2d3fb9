"""Folders that several runs may make at the same time."""

from __future__ import annotations

from pathlib import Path

import pytest

from rlscale.data.folders.made_once import made_once


def write(text: str, folder: Path) -> None:
    (folder / "file").write_text(text)


def test_a_folder_that_is_there_is_not_made_again(tmp_path: Path) -> None:
    final = tmp_path / "models" / "one"
    assert made_once(final, lambda folder: write("first", folder)) == final
    assert made_once(final, lambda folder: write("second", folder)) == final
    assert (final / "file").read_text() == "first"


def test_of_two_runs_the_first_that_is_done_stays(tmp_path: Path) -> None:
    final = tmp_path / "one"

    def slow(folder: Path) -> None:
        made_once(final, lambda other: write("other", other))
        write("own", folder)

    made_once(final, slow)
    assert (final / "file").read_text() == "other"
    assert [path.name for path in tmp_path.iterdir()] == ["one"]


def test_a_disk_that_refuses_leaves_nothing_behind(tmp_path: Path) -> None:
    def refused(folder: Path) -> None:
        write("half", folder)
        raise OSError("No space left on device")

    with pytest.raises(OSError, match="No space"):
        made_once(tmp_path / "one", refused)
    assert list(tmp_path.iterdir()) == []

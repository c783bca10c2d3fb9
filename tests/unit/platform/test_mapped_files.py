"""Files that stay mapped: what is read is what the file has now, and nothing is kept of files that are gone."""

from __future__ import annotations

from pathlib import Path

import pytest

from rlscale.platform.mapped_files import MappedFiles


def test_a_file_is_mapped_once_and_read_as_it_is_now(tmp_path: Path) -> None:
    mapped, file = MappedFiles(), tmp_path / "bucket"
    file.write_bytes(b"first")
    before = mapped.read(str(file))
    assert bytes(before.tolist()) == b"first"
    with open(file, "r+b") as open_file:
        open_file.write(b"other")
    after = mapped.read(str(file))
    assert bytes(after.tolist()) == b"other"
    assert after.data_ptr() == before.data_ptr()


def test_a_file_that_took_the_place_of_another_is_read_and_not_the_old_one(tmp_path: Path) -> None:
    mapped, file = MappedFiles(), tmp_path / "bucket"
    file.write_bytes(b"first")
    before = mapped.read(str(file))
    (tmp_path / "new").write_bytes(b"longer than before")
    (tmp_path / "new").rename(file)
    assert bytes(mapped.read(str(file)).tolist()) == b"longer than before"
    assert bytes(before.tolist()) == b"first", "who still has it keeps it"


def test_files_that_are_gone_are_let_go_and_refused(tmp_path: Path) -> None:
    mapped, file, other = MappedFiles(), tmp_path / "bucket", tmp_path / "other"
    file.write_bytes(b"first")
    other.write_bytes(b"other")
    mapped.read(str(file))
    file.unlink()
    mapped.read(str(other))
    assert list(mapped._known) == [str(other)]
    with pytest.raises(FileNotFoundError):
        mapped.read(str(file))

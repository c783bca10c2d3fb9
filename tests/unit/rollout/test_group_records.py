"""Files of finished groups: what was written is read, and a damaged file is right as far as it goes, and says so."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from rlscale.data.sample import Group, Prompt, Sample
from rlscale.rollout.group_records import GroupWriter, Origin, read_groups
from tests.unit.run.same_values import assert_same


def group(index: int, *versions: int) -> Group:
    """One sample, a token of each version."""
    prompt = Prompt(index=index, id=f"row {index}", tokens=np.array([1, 2], np.int32), label="3", text="1+2")
    tokens, logprobs = np.arange(len(versions), dtype=np.int32), np.linspace(-1, 0, len(versions), dtype=np.float32)
    sample = Sample.from_response(prompt, 0, tokens, logprobs, version=0, text="3")
    sample.versions[2:] = versions
    sample.reward = 0.5
    return Group(prompt, [sample])


def written(path: Path, *groups: Group) -> Path:
    writer = GroupWriter(path)
    for one in groups:
        writer.write(one)
    writer.close()
    return path


def test_what_is_written_is_read_in_its_order(tmp_path: Path) -> None:
    groups = [group(4, 1, 1), group(2, 1, 2, 2)]
    read, fault = read_groups(written(tmp_path / "new" / "a.groups", *groups))
    assert_same(read, groups)
    assert fault is None


def test_a_file_cut_off_at_any_byte_gives_the_groups_before_it_and_says_so(tmp_path: Path) -> None:
    groups = [group(index, 1) for index in range(2)]
    path = written(tmp_path / "a.groups", *groups)
    content = path.read_bytes()
    after_one = len(written(tmp_path / "one.groups", groups[0]).read_bytes())
    for size in range(len(content)):
        path.write_bytes(content[:size])
        read, fault = read_groups(path)
        assert_same(read, groups[: size >= after_one])
        # A kill between two records leaves a whole file; nobody can tell that there was to be another.
        assert (fault is None) == (size in (24, after_one)), size
        assert fault is None or fault.startswith(f"{path} is cut off or ")


def test_a_file_with_any_byte_changed_gives_only_groups_that_were_written_and_says_so(tmp_path: Path) -> None:
    groups = [group(index, 1) for index in range(2)]
    path = written(tmp_path / "a.groups", *groups)
    content = path.read_bytes()
    for place in range(len(content)):
        changed = bytearray(content)
        changed[place] ^= 0x41
        path.write_bytes(changed)
        read, fault = read_groups(path)
        assert_same(read, groups[: len(read)])
        assert len(read) < len(groups)
        assert fault is not None
        assert str(path) in fault


def test_a_disk_that_refuses_leaves_no_half_of_a_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, write = tmp_path / "a.groups", os.write
    writer = GroupWriter(path)
    writer.write(group(0, 1))

    def full(file: int, piece: memoryview) -> int:
        if len(piece) <= 40:
            raise OSError(28, "No space left on device")
        return write(file, piece[:40])

    with monkeypatch.context() as patched:
        patched.setattr("rlscale.rollout.group_records.os.write", full)
        with pytest.raises(OSError, match="No space left"):
            writer.write(group(1, 1))
    writer.write(group(2, 1))
    writer.close()
    read, fault = read_groups(path)
    assert ([one.prompt.index for one in read], fault) == ([0, 2], None)


def test_groups_of_another_origin_are_not_read(tmp_path: Path) -> None:
    path = written(tmp_path / "a.groups", group(0, 1))
    assert read_groups(path, Origin(b"another source !")) == (
        [],
        f"{path} has groups of other data, or of other rewards or their code",
    )


def test_a_disk_that_is_full_from_the_start_leaves_no_file_and_no_descriptor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(file: int, piece: memoryview) -> int:
        raise OSError(28, "No space left on device")

    before = len(os.listdir("/proc/self/fd"))
    with monkeypatch.context() as patched:
        patched.setattr("rlscale.rollout.group_records.os.write", full)
        with pytest.raises(OSError, match="No space left"):
            GroupWriter(tmp_path / "a.groups")
    assert list(tmp_path.iterdir()) == []
    assert len(os.listdir("/proc/self/fd")) == before

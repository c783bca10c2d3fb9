"""Folders that are kept for later runs stay while somebody uses them, and a few after that."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from rlscale.data.folders.leased_folders import lease, remove_unused


def made(parent: Path, name: str) -> Path:
    (parent / name).mkdir(parents=True, exist_ok=True)
    (parent / name / "weights").write_text("numbers")
    return parent / name


def test_what_nobody_uses_is_removed_but_for_the_last_used_ones(tmp_path: Path) -> None:
    (tmp_path / "somebody's own").mkdir()
    leases = []
    for age, name in enumerate("abcde"):
        leases.append(one := lease(lambda name=name: made(tmp_path, name)))  # type: ignore[misc]  # mypy: defaults
        os.utime(tmp_path / f"{name}.lease", (time.time() - age,) * 2)
        if name != "d":
            one.end()
    assert remove_unused(tmp_path, keep=2) == ["c", "e"]
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_dir()) == ["a", "b", "d", "somebody's own"]
    again = lease(lambda: made(tmp_path, "c"))
    assert (again.folder / "weights").is_file()


def test_folders_in_use_are_not_among_those_that_are_kept(tmp_path: Path) -> None:
    leases = []
    for age, name in enumerate("abcd"):
        leases.append(one := lease(lambda name=name: made(tmp_path, name)))  # type: ignore[misc]  # mypy: defaults
        os.utime(tmp_path / f"{name}.lease", (time.time() - age,) * 2)
        if name != "a":
            one.end()
    assert remove_unused(tmp_path, keep=2) == ["d"]


def test_of_two_that_remove_the_slower_one_passes_over_what_has_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in "ab":
        lease(lambda name=name: made(tmp_path, name)).end()  # type: ignore[misc]  # mypy: defaults
    others: list[list[str]] = []
    locks = fcntl.flock

    def slower(file: Any, how: int) -> None:
        """Before this one has its first lock, another one removes everything."""
        if not others:
            others.append([])
            others.append(remove_unused(tmp_path, keep=0))
        locks(file, how)

    monkeypatch.setattr(fcntl, "flock", slower)
    assert remove_unused(tmp_path, keep=0) == []
    assert sorted(others[1]) == ["a", "b"]


def test_what_a_killed_remover_left_goes_and_what_is_being_made_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lease(lambda: made(tmp_path, "a")).end()
    made(tmp_path, ".a-0123456789ab")
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", lambda *_, **__: None)  # as one that is killed before that
        remove_unused(tmp_path, keep=0)
    assert len([path for path in tmp_path.iterdir() if path.is_dir()]) == 2
    remove_unused(tmp_path)
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == [".a-0123456789ab"]


def test_a_lease_ends_with_the_process_that_has_it(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from rlscale.data.folders.leased_folders import lease; "
        "folder = Path(sys.argv[1]); folder.mkdir(); kept = lease(lambda: folder); print('leased', flush=True); input()"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "a")], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert child.stdout is not None
    assert child.stdout.readline() == b"leased\n"
    assert remove_unused(tmp_path, keep=0) == []
    child.kill()
    child.communicate()
    assert remove_unused(tmp_path, keep=0) == ["a"]


def test_a_folder_that_goes_before_it_is_leased_is_made_again(tmp_path: Path) -> None:
    times = []

    def make() -> Path:
        times.append(made(tmp_path, "a"))
        if len(times) == 1:
            lease(lambda: tmp_path / "a").end()
            remove_unused(tmp_path, keep=0)
        return tmp_path / "a"

    assert lease(make).folder.is_dir()
    assert len(times) == 2

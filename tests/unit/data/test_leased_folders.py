"""Folders that are kept for later runs stay while somebody uses them, and a few after that."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

from rlscale.data.leased_folders import lease, remove_unused


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


def test_a_lease_ends_with_the_process_that_has_it(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from rlscale.data.leased_folders import lease; "
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

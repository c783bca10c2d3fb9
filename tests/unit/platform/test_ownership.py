"""Folders and files in which other users of the machine could put theirs."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from rlscale.config.errors import UserError
from rlscale.platform.ownership import refuse_foreign_file, refuse_shared
from rlscale.run.processes.forks import Forks, read_forks, write_forks


@pytest.mark.parametrize("mode", [0o777, 0o1777, 0o702])
def test_a_folder_that_everybody_may_write_in_is_refused(tmp_path: Path, mode: int) -> None:
    tmp_path.chmod(mode)
    with pytest.raises(UserError, match=rf"run\.scratch={tmp_path}: everybody may write there, .* chmod o-w"):
        refuse_shared(tmp_path, "run.scratch")
    tmp_path.chmod(0o755)
    refuse_shared(tmp_path, "run.scratch")


def test_another_users_folder_is_refused_but_by_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: tmp_path.stat().st_uid + 1)
    with pytest.raises(UserError, match="belongs to another user"):
        refuse_shared(tmp_path, "run.scratch")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    refuse_shared(tmp_path, "run.scratch")


def test_the_fork_server_that_somebody_else_names_is_not_asked(tmp_path: Path) -> None:
    file = tmp_path / "warm.json"
    write_forks(Forks("an address"), file)
    assert read_forks(file) == Forks("an address")
    file.chmod(0o666)
    with pytest.raises(UserError, match=r"cluster\.warm=.* everybody may write it; name one of your own"):
        read_forks(file)


@pytest.mark.parametrize("me", [0, 4711])
def test_a_file_of_another_user_is_foreign_to_root_too_and_roots_to_nobody(
    me: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "file"
    file.touch(0o644)
    owner, found = [4712], file.stat()
    monkeypatch.setattr(Path, "stat", lambda _: SimpleNamespace(st_mode=found.st_mode, st_uid=owner[0]))
    monkeypatch.setattr(os, "geteuid", lambda: me)
    with pytest.raises(UserError, match=r"key=.* belongs to another user"):
        refuse_foreign_file(file, "key")
    for owner[0] in (0, me):
        refuse_foreign_file(file, "key")

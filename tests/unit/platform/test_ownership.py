"""Folders and files in which other users of the machine could put theirs."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from rlscale.config.errors import UserError
from rlscale.platform.ownership import refuse_foreign_file, refuse_shared
from rlscale.run.processes.forks import Forks, engine_fork_server, read_forks, worker_fork_server, write_forks


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


@pytest.mark.parametrize("below", ["mine", "mine/deeper"])
def test_a_folder_that_others_could_rename_is_noted_once(
    tmp_path: Path, below: str, capsys: pytest.CaptureFixture[str]
) -> None:
    public = tmp_path / "pub"
    (public / below).mkdir(0o700, parents=True)
    public.chmod(0o777)
    for _ in range(2):
        refuse_shared(public / below, "run.scratch")
    (note,) = capsys.readouterr().err.splitlines()
    assert note.startswith(f"note: run.scratch={public / below}: everybody may write in {public}, and could put ")
    for public_mode in (0o1777, 0o775):  # nobody renames there what is not his; a group is trusted
        public.chmod(public_mode)
        refuse_shared(public / below, "others")
    assert capsys.readouterr().err == ""


def test_so_is_one_behind_a_link_and_one_whose_link_could_be_replaced(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    public, own = tmp_path / "pub", tmp_path / "own"
    (public / "mine").mkdir(0o700, parents=True)
    own.mkdir(0o700)
    (own / "link").symlink_to(public / "mine")
    (public / "link").symlink_to(own)
    public.chmod(0o777)
    for way in (own / "link", public / "link"):
        refuse_shared(way, "run.scratch")
        assert f"{way}: everybody may write in {public}" in capsys.readouterr().err


def test_a_folder_below_that_of_another_user_is_noted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As below a project's folder that somebody else has made: whoever works there knows him."""
    (tmp_path / "mine").mkdir(0o700)
    me, him = 4711, 4712
    owners = {tmp_path: him, tmp_path / "mine": me}
    known = Path.stat
    monkeypatch.setattr(
        Path, "stat", lambda self: SimpleNamespace(st_mode=known(self).st_mode, st_uid=owners.get(self, 0))
    )
    monkeypatch.setattr(os, "geteuid", lambda: me)
    refuse_shared(tmp_path / "mine", "key")
    assert f"mine: {tmp_path} belongs to another user, and could put something else" in capsys.readouterr().err
    for owners[tmp_path] in (me, 0):
        refuse_shared(tmp_path / "mine", f"key {owners[tmp_path]}")
    assert capsys.readouterr().err == ""


def test_a_file_that_others_could_replace_is_noted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "pub").mkdir()
    (tmp_path / "pub" / "warm.json").touch(0o644)
    (tmp_path / "pub").chmod(0o777)
    refuse_foreign_file(tmp_path / "pub" / "warm.json", "cluster.warm")
    assert "pub/warm.json: everybody may write in" in capsys.readouterr().err


@pytest.mark.parametrize("server", [engine_fork_server, worker_fork_server])
def test_no_fork_server_has_files_where_others_may_write(tmp_path: Path, server: Callable) -> None:
    (tmp_path / "pub" / "mine").mkdir(parents=True)
    (tmp_path / "pub" / "mine").chmod(0o777)
    with pytest.raises(UserError, match="everybody may write there"), server(tmp_path / "pub" / "mine"):
        pass
    assert list((tmp_path / "pub" / "mine").iterdir()) == []


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
    owner = [4712]
    known = Path.stat
    monkeypatch.setattr(
        Path, "stat", lambda self: SimpleNamespace(st_mode=known(self).st_mode, st_uid=owner[0] if self == file else 0)
    )
    monkeypatch.setattr(os, "geteuid", lambda: me)
    with pytest.raises(UserError, match=r"key=.* belongs to another user"):
        refuse_foreign_file(file, "key")
    for owner[0] in (0, me):
        refuse_foreign_file(file, "key")

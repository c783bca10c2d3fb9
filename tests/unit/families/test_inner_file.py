"""Which names of files are followed in a folder that may be somebody else's."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from rlscale.families.inner_file import inner_file, refuse_pipe


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a file, and one below it."""
    (tmp_path / "checkpoint" / "trainer").mkdir(parents=True)
    for name in ("own", "trainer/own"):
        (tmp_path / "checkpoint" / name).write_text("own")
    (tmp_path / "other").write_text("of somebody")
    return tmp_path / "checkpoint"


def test_a_regular_file_is_found_also_where_the_folder_is_a_link(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(folder)
    (folder / "inside").symlink_to("trainer/own")
    for place in (folder, tmp_path / "link"):
        for name in ("own", "trainer/own", "inside"):
            assert inner_file(place, name) == place / name


@pytest.mark.parametrize("name", ["", ".", "/etc/hostname", "../other", "trainer/../../other", "own\0", "trainer/.."])
def test_names_that_lead_out_are_refused(folder: Path, name: str) -> None:
    with pytest.raises(OSError, match="not the name of a file inside the folder"):
        inner_file(folder, name)


@pytest.mark.parametrize("target", ["/etc/hostname", "../other"])
def test_links_that_lead_out_are_refused(folder: Path, target: str) -> None:
    (folder / "link").symlink_to(target)
    with pytest.raises(OSError, match="a link that leads out of the folder"):
        inner_file(folder, "link")
    (folder / "away").symlink_to("/etc")
    with pytest.raises(OSError, match="a link that leads out of the folder"):
        inner_file(folder, "away/hostname")


def test_what_never_ends_is_no_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(folder / "pipe")
    (folder / "to_pipe").symlink_to("pipe")
    monkeypatch.chdir(folder)  # the path of a socket is short
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("socket")
    for name in ("pipe", "to_pipe", "socket", "trainer"):
        with pytest.raises(OSError, match="not a regular file"):
            inner_file(folder, name)


def test_what_is_missing_and_what_leads_in_a_circle_are_told_apart(folder: Path) -> None:
    (folder / "circle").symlink_to("circle")
    with pytest.raises(OSError, match="a link that leads to itself"):
        inner_file(folder, "circle")
    with pytest.raises(FileNotFoundError):
        inner_file(folder, "none")


def test_a_pipe_is_told_from_files_folders_and_what_is_missing(folder: Path) -> None:
    os.mkfifo(folder / "pipe")
    with pytest.raises(OSError, match="not a regular file"):
        refuse_pipe(folder / "pipe")
    for name in ("own", "trainer", "none"):
        refuse_pipe(folder / name)

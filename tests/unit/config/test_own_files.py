"""What is written by a name that somebody else may have used changes no other file."""

import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from rlscale.config.composition.compose import compose
from rlscale.config.composition.written_recipe import write_recipe
from rlscale.config.errors import UserError
from rlscale.config.own_files import cleared, open_lock, open_to_append, refuse_linked_files, replaced, write_text

PRECIOUS = "alias ll='ls -l'\n"


@pytest.fixture
def precious(tmp_path: Path) -> Path:
    file = tmp_path / "bashrc"
    file.write_text(PRECIOUS)
    return file


@pytest.mark.parametrize("name", ["run.json", ".run.json.partial"])
def test_a_link_is_replaced_and_not_followed(tmp_path: Path, precious: Path, name: str) -> None:
    (tmp_path / name).symlink_to(precious)
    write_text(tmp_path / "run.json", "{}")
    assert (tmp_path / "run.json").read_text() == "{}"
    assert not (tmp_path / "run.json").is_symlink()
    assert precious.read_text() == PRECIOUS


@pytest.mark.parametrize("opened", [open_lock, open_to_append])
def test_what_is_kept_is_refused_where_it_is_a_link(
    tmp_path: Path, precious: Path, opened: Callable[[Path], object]
) -> None:
    (tmp_path / "link").symlink_to(precious)
    with pytest.raises(UserError, match=r"link is a link to .*bashrc, .*; remove it$"):
        opened(tmp_path / "link")
    (tmp_path / "nowhere").symlink_to(tmp_path / "new")
    with pytest.raises(UserError, match="nowhere is a link to"):
        opened(tmp_path / "nowhere")
    assert not (tmp_path / "new").exists()
    assert precious.read_text() == PRECIOUS


@pytest.mark.parametrize("opened", [open_lock, open_to_append])
@pytest.mark.parametrize(("make", "what"), [(os.mkfifo, "is no regular file"), (os.mkdir, "is a folder")])
def test_a_pipe_and_a_folder_are_refused_at_once(
    tmp_path: Path, opened: Callable[[Path], object], make: Callable[[Path], None], what: str
) -> None:
    make(tmp_path / "held")
    with pytest.raises(UserError, match=f"held {what}, where a run writes a file of its own; remove it"):
        opened(tmp_path / "held")


def test_a_lock_keeps_what_is_in_its_file_and_a_log_goes_on(tmp_path: Path) -> None:
    (tmp_path / "held").write_text("one\n")
    open_lock(tmp_path / "held").close()
    log = open_to_append(tmp_path / "held")
    os.write(log, b"two\n")
    os.close(log)
    assert (tmp_path / "held").read_text() == "one\ntwo\n"


def test_a_write_that_fails_leaves_the_old_file_and_nothing_beside_it(tmp_path: Path) -> None:
    (tmp_path / "held").write_text("old")
    with pytest.raises(TypeError), replaced(tmp_path / "held") as file:
        file.writelines([b"half", None])  # type: ignore[list-item]
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("held", "old")]


def test_the_mode_is_there_from_the_beginning_and_otherwise_the_umasks(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_text(tmp_path / "key", "k", mode=0o600)
        write_text(tmp_path / "other", "o")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "key").stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "other").stat().st_mode) == 0o640


def test_a_folder_in_the_place_of_what_is_written_first_is_named(tmp_path: Path) -> None:
    (tmp_path / ".held.partial").mkdir()
    with pytest.raises(UserError, match=r"\.held\.partial is a folder, .*; remove it"):
        write_text(tmp_path / "held", "new")


def test_what_another_package_writes_finds_no_link(tmp_path: Path, precious: Path) -> None:
    (tmp_path / "trace").symlink_to(precious)
    cleared(cleared(tmp_path / "trace")).write_text("{}")
    assert precious.read_text() == PRECIOUS


def test_links_to_files_are_found_among_logs_and_links_to_folders_stay(tmp_path: Path, precious: Path) -> None:
    logs = tmp_path / "logs"
    (logs / "hang").mkdir(parents=True)
    (logs / "rank-0.log").write_text("")
    (tmp_path / "disk").mkdir()
    (logs / "evaluation").symlink_to(tmp_path / "disk")
    refuse_linked_files(logs)
    refuse_linked_files(tmp_path / "none")
    (logs / "latest.log").symlink_to("rank-0.log")  # within: it leads to what is looked at, too
    refuse_linked_files(logs)
    (logs / "hang" / "engine-0.log").symlink_to(precious)
    with pytest.raises(UserError, match=r"hang/engine-0.log is a link to"):
        refuse_linked_files(logs)


def test_a_recipe_is_written_in_the_place_of_a_link(tmp_path: Path, precious: Path, plain_recipe: str) -> None:
    for name in ("recipe.yaml", "resolved.yaml"):
        (tmp_path / name).symlink_to(precious)
    write_recipe(compose(plain_recipe, []), tmp_path)
    assert precious.read_text() == PRECIOUS
    assert "ran_on:" in (tmp_path / "resolved.yaml").read_text()

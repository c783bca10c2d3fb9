"""Which folder a command gets: a new one, or that of an unfinished run of the same configuration."""

import dataclasses
import os
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import pytest

from rlscale.config.composition.compose import compose
from rlscale.config.composition.written_recipe import write_recipe
from rlscale.config.errors import UserError
from rlscale.config.keys import config_hash
from rlscale.config.schema.checkpoint_config import CheckpointConfig, Resume
from rlscale.config.schema.run_config import RunSection
from rlscale.run.disk.run_folder import MARK, RunFolder, open_folder, read_mark, refuse_folder


def command(root: Path, *, output: Path | None = None, resume: Resume = Resume.auto):
    run = RunSection(recipe="toy", root=str(root), output=str(output) if output else None)
    return SimpleNamespace(run=run, checkpoint=CheckpointConfig(resume=resume))


def start(config, digest: str = "a", *, state: str = "unfinished") -> RunFolder:
    folder = open_folder(config, digest)
    folder.mark(config_hash=digest, state=state)
    return folder


def test_the_newest_unfinished_run_of_the_same_configuration_is_continued(tmp_path: Path):
    first = start(command(tmp_path))
    first.release()
    second = open_folder(command(tmp_path), "a")
    assert second.path == first.path
    assert second.resumed


@pytest.mark.parametrize(("state", "digest"), [("finished", "a"), ("unfinished", "b")])
def test_a_finished_run_or_another_configuration_is_not_continued(tmp_path: Path, state: str, digest: str):
    first = start(command(tmp_path), digest, state=state)
    first.release()
    second = open_folder(command(tmp_path), "a")
    assert second.path != first.path
    assert not second.resumed


def test_a_run_that_is_still_going_is_left_alone(tmp_path: Path):
    first = start(command(tmp_path))
    second = open_folder(command(tmp_path), "a")
    assert second.path != first.path
    with pytest.raises(UserError, match="still running"):
        open_folder(command(tmp_path, output=first.path), "a")


def test_resume_never_starts_afresh(tmp_path: Path):
    start(command(tmp_path)).release()
    assert not open_folder(command(tmp_path, resume=Resume.never), "a").resumed


def test_a_given_folder_is_continued_and_must_hold_the_same_configuration(tmp_path: Path):
    config = command(tmp_path, output=tmp_path / "mine")
    start(config).release()
    again = open_folder(config, "a")
    assert again.resumed
    again.release()
    with pytest.raises(UserError, match="a different configuration"):
        open_folder(config, "b")


def test_a_given_folder_with_something_else_in_it_is_refused(tmp_path: Path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("precious")
    with pytest.raises(UserError, match="without a run in it"):
        open_folder(command(tmp_path, output=tmp_path / "mine"), "a")


def test_starting_afresh_in_a_given_folder_keeps_the_old_run_aside(tmp_path: Path):
    config = command(tmp_path, output=tmp_path / "mine")
    start(config).release()
    fresh = dataclasses.replace(CheckpointConfig(), resume=Resume.never)
    folder = open_folder(SimpleNamespace(run=config.run, checkpoint=fresh), "a")
    assert read_mark(folder.path) is None
    aside = [path for path in tmp_path.iterdir() if path.name.startswith("mine.old-")]
    assert read_mark(aside[0]) == {"config_hash": "a", "state": "unfinished"}


def test_a_folder_that_a_run_left_before_it_said_what_it_is_can_be_used_again(tmp_path: Path):
    """Killed between taking its lock and writing anything."""
    config = command(tmp_path, output=tmp_path / "mine")
    open_folder(config, "a").release()
    again = open_folder(config, "a")
    assert again.path == (tmp_path / "mine").resolve()
    assert not again.resumed


def test_a_run_of_another_configuration_is_told_by_the_keys_that_differ(tmp_path: Path):
    """Before anything is made or held, as far as the command knows it from the start."""
    output = f"run.output={tmp_path}/mine"
    first = compose(None, [output, "optim.lr=0.25", "run.seed=3"])
    folder = start(first, config_hash(first))
    write_recipe(first, folder.path)
    folder.release()
    refuse_folder(first, config_hash(first))
    other = compose(None, [output, "run.seed=4", "tracker=tensorboard"])
    with pytest.raises(
        UserError, match=r"contains a run with a different configuration \((.*)\); choose another folder"
    ) as caught:
        refuse_folder(other, config_hash(other))
    assert "optim.lr" in str(caught.value)
    assert "run.seed" in str(caught.value)
    assert "tracker" not in str(caught.value)
    folder.mark(state="finished")
    with pytest.raises(UserError, match="contains a finished run"):
        refuse_folder(first, config_hash(first))


def test_a_state_that_rlscale_does_not_write_is_refused(tmp_path: Path):
    given = command(tmp_path, output=tmp_path / "out")
    start(given, state="paused").release()
    with pytest.raises(UserError, match=r"run\.json has a state that rlscale does not write \('paused'\)"):
        open_folder(given, "a")


@pytest.mark.parametrize("name", [".lock", "run.json.partial", ".run.json.partial", "logs/engine-0.log"])
def test_links_in_a_strangers_folder_change_no_file_elsewhere(tmp_path: Path, name: str):
    precious, run = tmp_path / "bashrc", tmp_path / "run"
    precious.write_text("alias")
    start(command(tmp_path, output=run)).release()
    (run / name).parent.mkdir(exist_ok=True)
    (run / name).unlink(missing_ok=True)
    (run / name).symlink_to(precious)
    with suppress(UserError):
        open_folder(command(tmp_path, output=run), "a").mark(state="finished")
    assert precious.read_text() == "alias"


@pytest.mark.parametrize("name", [".lock", "logs/engine-0.log"])
def test_a_link_where_a_run_would_write_on_is_named(tmp_path: Path, name: str):
    run = tmp_path / "run"
    start(command(tmp_path, output=run)).release()
    (run / "logs").mkdir()
    (run / name).unlink(missing_ok=True)
    (run / name).symlink_to(tmp_path / "bashrc")
    for _ in range(2):  # the second time nobody holds the folder
        with pytest.raises(UserError, match=rf"{name} is a link to .*bashrc, .*; remove it$"):
            open_folder(command(tmp_path, output=run), "a")


def test_a_lock_does_not_empty_a_file(tmp_path: Path):
    (tmp_path / ".lock").write_text("kept")
    RunFolder(tmp_path).acquire()
    assert (tmp_path / ".lock").read_text() == "kept"


def test_checkpoints_may_lie_on_another_disk(tmp_path: Path):
    run, disk = tmp_path / "run", tmp_path / "disk"
    start(command(tmp_path, output=run)).release()
    for name in ("checkpoints", "logs"):
        (disk / name).mkdir(parents=True)
        (run / name).symlink_to(disk / name)
    assert open_folder(command(tmp_path, output=run), "a").resumed


def test_a_pipe_in_the_place_of_what_a_run_says_of_itself_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / MARK)
    with pytest.raises(UserError, match=rf"{MARK} is not one that rlscale writes; choose another folder"):
        read_mark(tmp_path)

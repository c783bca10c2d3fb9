"""Hooks that cannot be built end a command before Ray, a folder or a stage is there."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from rlscale.config.compose import compose
from rlscale.config.errors import UserError
from rlscale.config.schema import Config
from rlscale.run import execute
from rlscale.run.stages import WARM_START, Stage

MISSING = ["algo/reduction=custom", "algo.reduction.function._target_=no_such_module.fn"]
MESSAGE = r"^algo\.reduction\.function\._target_=no_such_module\.fn: no module of that name; is it on PYTHONPATH\?$"


@pytest.fixture(autouse=True)
def no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    def started(*_: object) -> None:
        raise AssertionError("Ray was started")

    monkeypatch.setattr(execute, "RaySession", started)
    monkeypatch.setattr(execute, "check_machine", lambda config: [])


def config(folder: Path, *overrides: str) -> Config:
    places = [f"run.root={folder}/runs", f"run.scratch={folder}/scratch"]
    return compose(None, ["model.init=/some/model", *places, *overrides])


def test_a_hook_of_the_run_ends_it_before_anything_is_made(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=MESSAGE):
        execute.execute(config(tmp_path, *MISSING))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("done", [False, True])
def test_a_hook_of_a_stage_does_too_unless_its_result_is_there(
    done: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, stage = config(tmp_path), Stage(WARM_START, config(tmp_path, *MISSING))
    monkeypatch.setattr(execute, "stages_before", lambda of: [stage] if of is run else [])
    monkeypatch.setattr(Stage, "result", lambda self: tmp_path if done else None)
    error, message = (AssertionError, "Ray was started") if done else (UserError, MESSAGE)
    with pytest.raises(error, match=message):
        execute.execute(run)


def test_a_hook_of_the_current_folder_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also by the installed script, whose search path does not begin with the current folder."""
    (tmp_path / "hook_of_this_folder.py").write_text("def fn(rewards, groups):\n    return rewards\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    hook = ["algo/score=custom", "algo.score.function._target_=hook_of_this_folder.fn"]
    with pytest.raises(AssertionError, match="Ray was started"):
        execute.execute(config(tmp_path, *hook))
    assert str(tmp_path) not in sys.path
    del sys.modules["hook_of_this_folder"]

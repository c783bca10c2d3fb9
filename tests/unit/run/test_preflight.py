"""What is wrong with a run's parts ends a command before Ray, a folder or a stage is there."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from rlscale.config.composition.compose import compose
from rlscale.config.errors import ConfigError, UserError
from rlscale.config.schema import Config
from rlscale.run import execute
from rlscale.run.disk.stages import Stage
from rlscale.run.preflight import preflight

MISSING = ["algo/reduction=custom", "algo.reduction.function._target_=no_such_module.fn"]
MESSAGE = r"^algo\.reduction\.function\._target_=no_such_module\.fn: no module of that name; is it on PYTHONPATH\?$"
NO_REWARD = ["reward=custom", "reward.function._target_=no_such_module.fn"]


class RayStarted(Exception):
    """In place of Ray."""


@pytest.fixture(autouse=True)
def no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    def started(*_: object) -> None:
        raise RayStarted

    monkeypatch.setattr("rlscale.run.processes.ray_session.RaySession", started)
    monkeypatch.setattr(execute, "check_machine", lambda config: [])


def config(folder: Path, *overrides: str, model: str = "warm_start=null") -> Config:
    places = [f"run.root={folder}/runs", f"run.scratch={folder}/scratch"]
    return compose(None, [model, *places, *overrides])


def test_a_hook_of_the_run_ends_it_before_anything_is_made(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=MESSAGE):
        execute.execute(config(tmp_path, *MISSING))
    assert [path.name for path in tmp_path.rglob("*")] == ["scratch"]  # which was tried first


def test_a_judge_asks_a_model_that_the_run_serves_from_a_folder_that_is_there(tmp_path: Path) -> None:
    judge = ["reward=judge", "reward.function.model=judge", "reward.function.rubric=short", "eval.enabled=false"]
    with pytest.raises(UserError, match=r"^rollout\.models: there is no model judge; it has jury$"):
        preflight(config(tmp_path, *judge, f"rollout.models.jury.path={tmp_path}"))
    with pytest.raises(UserError, match=rf"^rollout\.models\.judge\.path={tmp_path}: "):
        preflight(config(tmp_path, *judge, f"rollout.models.judge.path={tmp_path}"))
    preflight(config(tmp_path, *judge, "rollout.models.judge.follows_policy=true"))


def test_a_draft_of_engines_that_speculate_is_there(tmp_path: Path) -> None:
    draft = ["rollout.speculation.algorithm=standalone", f"rollout.speculation.draft={tmp_path / 'none'}"]
    with pytest.raises(UserError, match=r"^rollout\.speculation\.draft=.*none: there is no such folder"):
        preflight(config(tmp_path, *draft))


def test_folders_that_engines_would_read_pickles_of_are_refused(tmp_path: Path) -> None:
    ready = config(tmp_path)
    preflight(ready)
    (made,) = (tmp_path / "scratch" / "models").iterdir()
    pickled = tmp_path / "pickled"
    shutil.copytree(made, pickled)
    (pickled / "model.safetensors").rename(pickled / "pytorch_model.bin")
    judge, draft = f"rollout.models.judge.path={pickled}", f"rollout.speculation.draft={pickled}"
    with pytest.raises(UserError, match=r"^rollout\.models\.judge\.path=.*pickled: only \.bin files; save it with"):
        preflight(config(tmp_path, judge))
    with pytest.raises(UserError, match=r"^rollout\.speculation\.draft=.*pickled: only \.bin files; save it with"):
        preflight(config(tmp_path, "rollout.speculation.algorithm=standalone", draft))
    preflight(config(tmp_path, judge, "+rollout.models.judge.sglang.load_format=dummy"))
    as_dummy = "+rollout.sglang.speculative_draft_load_format=dummy"
    preflight(config(tmp_path, "rollout.speculation.algorithm=standalone", draft, as_dummy))


def test_a_missing_reward_module_is_said_within_three_seconds(tmp_path: Path) -> None:
    """The CPU time of the whole command, because the wall time of a busy machine says little."""
    import resource

    command = [sys.executable, "-m", "rlscale", *NO_REWARD, f"run.root={tmp_path}/runs"]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: reward.function._target_=no_such_module.fn: no module of that name")
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 3.0
    assert not (tmp_path / "runs").exists()


def test_all_that_is_wrong_is_said_together(tmp_path: Path) -> None:
    (tmp_path / "bad.jsonl").write_text('{"prompt": "1+1="}\n')
    with pytest.raises(ConfigError) as caught:
        preflight(
            config(
                tmp_path,
                *MISSING,
                *NO_REWARD,
                "data=jsonl",
                f"data.path={tmp_path}/bad.jsonl",
                "data@eval.data=custom",
                "eval.data.source._target_=no_such_module.Source",
            )
        )
    assert [line.split(": ")[0] for line in caught.value.problems] == [
        "algo.reduction.function._target_=no_such_module.fn",
        "reward.function._target_=no_such_module.fn",
        f"{tmp_path}/bad.jsonl:1",
        "eval.data.source._target_=no_such_module.Source",
    ]


@pytest.mark.parametrize("done", [False, True])
def test_the_parts_of_a_stage_are_looked_at_unless_its_result_is_there(
    done: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its data file, which is missing, and its evaluation's reward."""
    stage = tmp_path / "stage.yaml"
    stage.write_text(
        "defaults: [arithmetic_sft, data: jsonl, data@eval.data: arithmetic_held_out, _self_]\n"
        "data: {path: /nowhere/rows.jsonl}\n"
        "reward: {function: {_target_: no_such_module.fn}}\n"
        "eval: {enabled: true}\n"
    )
    run = config(tmp_path, f"warm_start.recipe={stage}", model="run.seed=1")
    if done:
        monkeypatch.setattr(Stage, "result", lambda self: tmp_path)
        preflight(run)
        return
    with pytest.raises(ConfigError) as caught:
        execute.execute(run)
    assert caught.value.problems == [
        f"warm_start.recipe={stage}: reward.function._target_=no_such_module.fn: no module of that name; is it on "
        "PYTHONPATH?",
        f"warm_start.recipe={stage}: data.path=/nowhere/rows.jsonl: there is no such file",
    ]
    assert not (tmp_path / "runs").exists()


def test_whose_code_a_stage_runs_is_said_before_any_of_it_is_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As that of the run itself is: the recipe of a stage may be a stranger's as well."""
    stage, module = tmp_path / "stage.yaml", tmp_path / "strangers_reward.py"
    module.write_text("import sys\nprint('imported', file=sys.stderr)\nraise RuntimeError('far enough')\n")
    stage.write_text(
        "defaults: [arithmetic_sft, data@eval.data: arithmetic_held_out, _self_]\n"
        "reward: {function: {_target_: strangers_reward.score}}\n"
        "eval: {enabled: true}\n"
    )
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="far enough"):
        execute.execute(config(tmp_path, f"warm_start.recipe={stage}", model="run.seed=1"))
    said = capsys.readouterr().err.splitlines()
    assert said[0] == f"note: warm_start.recipe={stage}: reward.function: runs strangers_reward.score of {module}"
    assert said.index("imported") > 0


def test_it_is_said_at_the_start_which_token_ends_a_turn(tmp_path: Path) -> None:
    told = preflight(config(tmp_path, model="run.seed=1"))
    assert told.count("end of turn: '<|im_end|>' (token 3), written by the chat template") == 1, told


def test_a_prompt_that_the_tokenizer_lacks_is_said_before_ray_starts(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text(json.dumps({"prompt": "Résumé?", "label": "1"}) + "\n")
    given = ["data=jsonl", f"data.path={tmp_path}/rows.jsonl", "eval.enabled=false"]
    with pytest.raises(UserError, match=r"rows.jsonl:1: contains characters that the tokenizer does not have"):
        execute.execute(config(tmp_path, *given))


def test_a_source_of_the_user_that_raises_is_named_with_file_and_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_source.py").write_text(
        "from rlscale.data.prompts.sources import Stream\n\n\nclass Rows(Stream):\n    item = None\n\n"
        "    def __init__(self):\n        {}['x']\n"
    )
    monkeypatch.chdir(tmp_path)
    given = ["data=custom", "data.source._target_=my_source.Rows"]
    with pytest.raises(UserError, match=r"data\.source: my_source\.Rows cannot be built: KeyError\('x'\)"):
        preflight(config(tmp_path, *given))
    (tmp_path / "later_source.py").write_text(
        "from rlscale.data.prompts.sources import Stream\n\n\nclass Rows(Stream):\n    def __init__(self):\n"
        "        super().__init__(3, False, 0)\n\n    def item(self, number, index):\n        return {}['x']\n"
    )
    given = ["data=custom", "data.source._target_=later_source.Rows"]
    with pytest.raises(UserError, match=r"data\.source: failed with KeyError\('x'\) \(later_source\.py, line 9\)"):
        preflight(config(tmp_path, *given))


def test_a_hook_of_the_current_folder_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also by the installed script, whose search path does not begin with the current folder."""
    (tmp_path / "hook_of_this_folder.py").write_text("def fn(inputs):\n    return inputs.rewards\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    hook = ["algo/score=custom", "algo.score.function._target_=hook_of_this_folder.fn"]
    with pytest.raises(RayStarted):
        execute.execute(config(tmp_path, *hook))
    assert str(tmp_path) not in sys.path
    del sys.modules["hook_of_this_folder"]

"""The stages before a run: which there are, where their results lie, and what a run takes from them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rlscale.config.composition.compose import compose
from rlscale.config.composition.stage_configs import compose_teacher
from rlscale.config.errors import UserError
from rlscale.run.disk.stages import TEACHER, WARM_START, stages_before, with_result

MODEL = Path("/made/hf")


def stages(*overrides: str) -> list[str]:
    return [stage.what for stage in stages_before(compose(None, list(overrides)))]


def test_a_run_has_the_stages_that_its_recipe_names_and_its_algorithm_reads() -> None:
    assert stages() == [WARM_START]
    assert stages("model.init=/some/model") == []
    assert stages("algo=opd", "teacher.recipe=arithmetic_sft") == [WARM_START, TEACHER]
    assert stages("algo=opd", "teacher.path=/a/teacher", "warm_start=null") == []


def test_a_stage_is_found_again_once_it_has_finished(tmp_path: Path) -> None:
    config = compose(None, [f"run.root={tmp_path}", "run.seed=3"])
    (stage,) = stages_before(config)
    folder = Path(str(stage.config.run.output))
    assert folder.parent == tmp_path / "arithmetic_sft"
    assert stage.result() is None
    (folder / "hf").mkdir(parents=True)
    (folder / "hf" / "config.json").write_text("{}")
    (folder / "run.json").write_text(json.dumps({"state": "unfinished"}))
    assert stage.result() is None
    (folder / "run.json").write_text(json.dumps({"state": "finished"}))
    assert stage.result() == folder / "hf"


def test_a_teacher_is_the_same_whatever_the_policy_starts_from(tmp_path: Path) -> None:
    config = compose(None, ["algo=opd", "teacher.recipe=arithmetic_sft"])
    before = list(stages_before(config))
    warm = with_result(config, WARM_START, MODEL)
    assert warm.model.init == str(MODEL)
    assert before[1].config.model.init is None
    taught = with_result(warm, TEACHER, Path("/teacher/hf"))
    assert (taught.teacher.path, taught.teacher.recipe) == ("/teacher/hf", None)
    assert taught.model.init == str(MODEL)
    assert list(stages_before(taught)) == []


def test_a_critic_of_the_policys_model_starts_from_the_warm_start_too() -> None:
    warm = with_result(compose(None, ["algo=ppo"]), WARM_START, MODEL)
    assert warm.critic.model.init == str(MODEL)


@pytest.mark.parametrize(
    "own", [["critic.model.init=/other"], ["critic.model.path=/other", "critic.model.create=null"]]
)
def test_a_critic_of_its_own_does_not(own: list[str]) -> None:
    config = compose(None, ["algo=ppo", *own])
    assert with_result(config, WARM_START, MODEL).critic.model == config.critic.model


def test_the_critic_of_a_stage_follows_the_model_that_the_stage_takes() -> None:
    teacher = compose_teacher(compose(None, ["algo=opd", "teacher.recipe=arithmetic", "model.create.seed=7"]))
    assert teacher.model.create is not None
    assert teacher.model.create.seed == 7
    assert teacher.critic.model == teacher.model


def test_a_teacher_that_needs_a_teacher_is_refused() -> None:
    with pytest.raises(UserError, match=r"no teacher\.recipe of its own"):
        compose_teacher(compose(None, ["algo=opd", "teacher.recipe=arithmetic_opd"]))
    with pytest.raises(UserError, match=r"teacher\.recipe: is null"):
        compose_teacher(compose(None))

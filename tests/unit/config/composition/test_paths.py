"""A relative path starts from the file that holds it, and on the command line from the current folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from rlscale.config.composition.compose import compose
from rlscale.config.composition.paths import path_keys
from rlscale.config.composition.stage_configs import compose_warm_start
from rlscale.config.composition.written_recipe import write_recipe
from rlscale.config.schema.data_config import FileData

BASE = """
defaults: [arithmetic, {data: jsonl}, {data@eval.data: parquet}, _self_]
data: {path: 'train.jsonl@[0:9]'}
eval: {data: {path: ../held/out.parquet}}
"""
TOP = """
defaults: [base, _self_]
model: {path: ./model, create: null, tokenizer: tokens, chat_template: chat.jinja, init: trained}
rollout: {engine_key_file: key}
teacher: {path: owner/name, recipe: teacher.yaml}
warm_start: {recipe: first.yaml}
run: {root: runs, scratch: ~/scratch}
"""


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """The recipe's folder, and another one, which is the current one."""
    recipes, here = tmp_path / "recipes", tmp_path / "here"
    (recipes / "tokens").mkdir(parents=True)
    here.mkdir()
    monkeypatch.chdir(here)
    monkeypatch.setenv("HOME", "/home/user")
    return recipes, here


def test_the_keys_of_paths_are_those_that_the_schema_marks() -> None:
    assert set(path_keys()) == {
        *("data.path", "eval.data.path", "data.sources.*.data.path", "eval.sets.*.data.path"),
        *("eval.data.sources.*.data.path", "eval.sets.*.data.sources.*.data.path"),  # refused by a check
        *(f"{model}.{key}" for model in ("model", "critic.model") for key in ("path", "init", "tokenizer")),
        *("model.chat_template", "critic.model.chat_template", "teacher.path", "teacher.recipe", "warm_start.recipe"),
        *("model.lora.path", "critic.model.lora.path"),  # the second follows the first
        *("cluster.warm", "rollout.engine_key_file", "rollout.replay", "run.output", "run.root", "run.scratch"),
        *("rollout.models.*.path", "rollout.models.*.engine_key_file", "rollout.speculation.draft"),
    }


def test_every_path_of_a_recipe_starts_from_the_recipe(folders: tuple[Path, Path]) -> None:
    """Also those of the recipe that it builds on, from that one's folder. Names of the hub stay names."""
    recipes, _ = folders
    (recipes / "base.yaml").write_text(BASE)
    (recipes / "top.yaml").write_text(TOP)
    config = compose("../recipes/top.yaml")
    assert isinstance(config.data, FileData)
    assert config.data.path == f"{recipes}/train.jsonl@[0:9]"
    assert isinstance(config.eval.data, FileData)
    assert config.eval.data.path == f"{recipes.parent}/held/out.parquet"
    model = config.model
    assert (model.path, model.tokenizer) == (f"{recipes}/model", f"{recipes}/tokens")
    assert (model.chat_template, model.init) == (f"{recipes}/chat.jinja", f"{recipes}/trained")
    assert config.critic.model == model
    assert config.rollout.engine_key_file == f"{recipes}/key"
    assert (config.teacher.path, config.teacher.recipe) == ("owner/name", f"{recipes}/teacher.yaml")
    assert config.warm_start is not None
    assert config.warm_start.recipe == f"{recipes}/first.yaml"
    assert (config.run.root, config.run.scratch) == (f"{recipes}/runs", "/home/user/scratch")


def test_paths_of_the_command_line_and_defaults_start_from_the_current_folder(folders: tuple[Path, Path]) -> None:
    recipes, here = folders
    (recipes / "base.yaml").write_text(BASE)
    config = compose("../recipes/base.yaml", ["data.path=rows.jsonl", "run.output='~/out'", "model.init=../trained"])
    assert isinstance(config.data, FileData)
    assert config.data.path == f"{here}/rows.jsonl"
    assert (config.run.output, config.run.root) == ("/home/user/out", f"{here}/outputs")
    assert config.model.init == f"{here.parent}/trained"


def test_a_path_in_an_option_of_ones_own_starts_from_the_options_file(folders: tuple[Path, Path]) -> None:
    recipes, _ = folders
    (recipes / "data").mkdir()
    (recipes / "data" / "mine.yaml").write_text("defaults: [file_schema, _self_]\npath: rows.jsonl\n")
    (recipes / "own.yaml").write_text("defaults: [arithmetic, {data: mine}, {data@eval.data: mine}, _self_]\n")
    config = compose("../recipes/own.yaml")
    for data in (config.data, config.eval.data):
        assert isinstance(data, FileData)
        assert data.path == f"{recipes}/data/rows.jsonl"


def test_the_recipe_that_a_run_leaves_has_the_same_stage_from_any_other_folder(
    folders: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The stage's own data file is named relative to the stage's recipe, and found from everywhere."""
    recipes, _ = folders
    (recipes / "first.yaml").write_text("defaults: [arithmetic_sft, {data: jsonl}, _self_]\ndata: {path: own.jsonl}\n")
    (recipes / "top.yaml").write_text("defaults: [arithmetic, _self_]\nwarm_start: {recipe: first.yaml}\n")
    monkeypatch.chdir(recipes)
    config = compose("top.yaml")
    run = tmp_path / "outputs" / "run"
    run.mkdir(parents=True)
    write_recipe(config, run)
    monkeypatch.chdir(run)
    again = compose("recipe.yaml")
    stages = [compose_warm_start(one) for one in (config, again)]
    for stage in stages:
        assert isinstance(stage.data, FileData)
        assert stage.data.path == f"{recipes}/own.jsonl"

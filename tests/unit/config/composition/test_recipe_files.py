"""Recipes and option files of a user: where they are found, what they build on, and how their mistakes are told."""

from __future__ import annotations

from pathlib import Path

import pytest

from rlscale.config.composition.compose import compose
from rlscale.config.errors import UserError
from tests.unit.config.composition.test_compose import MODELS, Problems

RECIPE = """
defaults:
  - rlscale_schema
  - model: tiny_qwen3
  - algo: grpo
  - cluster: local_cpu
  - data: arithmetic
  - reward: arithmetic
  - _self_
eval:
  enabled: false
"""


BASE = """
defaults:
  - rlscale_schema
  - model: tiny_qwen3
  - algo: grpo
  - cluster: local_cpu
  - data: arithmetic
  - reward: arithmetic
  - optim: adam
  - _self_
optim:
  lr: 4.0e-4
  weight_decay: 0.0
"""


def write(folder: Path, text: str, name: str = "mine.yaml") -> str:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(text)
    return str(folder / name)


def test_a_group_that_the_recipe_leaves_out_can_be_chosen_without_a_plus(tmp_path: Path) -> None:
    config = compose(write(tmp_path, RECIPE), ["tracker=wandb", "data@eval.data=arithmetic_held_out"])
    assert config.tracker.kinds == ["wandb"]
    assert config.eval.data is not None


def test_mistakes_in_a_recipe_name_its_file(tmp_path: Path, problems: Problems) -> None:
    path = write(tmp_path, RECIPE + "optim:\n  lrr: 1\nrun:\n  iterations: many\n")
    assert problems(recipe=path) == [
        f"{path}: optim.lrr: unknown key; did you mean optim.lr?",
        f"{path}: run.iterations=many: must be an integer",
    ]


def test_a_group_without_a_choice_lists_its_options(tmp_path: Path, problems: Problems) -> None:
    (line,) = problems(recipe=write(tmp_path, RECIPE.replace("  - model: tiny_qwen3\n", "")))
    assert line.startswith(f"model: is not chosen; add model=<option>, one of {', '.join(MODELS)}")


def test_a_recipe_by_path_works_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "a b", RECIPE, "my recipe.v2.yaml")
    monkeypatch.chdir(tmp_path)
    config = compose("a b/my recipe.v2.yaml")
    assert config.run.recipe == "my recipe.v2"


def test_options_beside_a_recipe_can_be_chosen(tmp_path: Path) -> None:
    write(tmp_path / "optim", "lr: 0.125\n", "mine.yaml")
    assert compose(write(tmp_path, RECIPE), ["optim=mine"]).optim.lr == 0.125


def test_a_mistake_in_an_option_file_names_the_file(tmp_path: Path, problems: Problems) -> None:
    write(tmp_path / "optim", "lrr: 0.125\n", "mine.yaml")
    (line,) = problems("optim=mine", recipe=write(tmp_path, RECIPE))
    assert "optim/mine" in line
    assert "lrr" in line


def test_a_recipe_can_build_on_another(tmp_path: Path) -> None:
    write(tmp_path, BASE, "base.yaml")
    path = write(tmp_path, "defaults: [base, {algo: gspo}, _self_]\noptim:\n  lr: 0.5\n")
    config = compose(path)
    assert (config.optim.lr, config.optim.weight_decay, config.algo.name) == (0.5, 0.0, "gspo")
    assert config.run.recipe == "mine"


def test_a_recipe_that_changes_a_choice_of_its_base_must_settle_the_values(tmp_path: Path, problems: Problems) -> None:
    write(tmp_path, BASE, "base.yaml")
    (line,) = problems(recipe=write(tmp_path, "defaults: [base, {optim: adam_cosine}, _self_]\n"))
    assert "builds on base, which sets optim.lr=0.0004, optim.weight_decay=0.0" in line


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("defaults: [rlscale_schema\n", "not valid YAML"),
        ("- a\n", "a recipe is a mapping"),
        ("run: {}\n", "begins with a defaults list"),
        ("defaults:\n  - model: tiny_qwen3\n", "begins with rlscale_schema"),
        ("defaults: [rlscale_schema, _self_, {model: tiny_qwen3}]\n", "_self_ must be the last"),
        ("defaults: [arithmatic]\n", "did you mean arithmetic?"),
        ("defaults: [mine]\n", "builds on itself"),
        ("defaults: [rlscale_schema]\nhydra: {verbose: true}\n", "hydra.verbose has no effect"),
        ("defaults: [rlscale_schema]\na: 1\na: 2\n", "line 3: not valid YAML (found duplicate key a)"),
    ],
)
def test_a_file_that_is_no_recipe_is_named(tmp_path: Path, text: str, message: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(UserError) as error:
        compose(path)
    assert message in str(error.value)
    assert path in str(error.value)


def test_an_unknown_recipe_names_the_nearest_and_the_known() -> None:
    with pytest.raises(
        UserError, match=r"did you mean arithmetic\? Available: adaptive_arithmetic, arithmetic, arithmetic_async, "
    ):
        compose("arithmatic")
    with pytest.raises(UserError, match="there is no such file"):
        compose("nowhere/mine.yaml")


def test_a_group_that_a_recipe_chooses_twice_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "r.yaml"
    file.write_text("defaults:\n  - rlscale_schema\n  - algo: grpo\n  - algo: ppo\n")
    with pytest.raises(UserError, match=r"r\.yaml: algo is chosen twice in defaults"):
        compose(str(file))


def test_an_option_file_that_is_a_link_to_nothing_is_named(tmp_path: Path) -> None:
    (tmp_path / "parallel").mkdir()
    (tmp_path / "parallel" / "mine.yaml").symlink_to("gone")
    file = tmp_path / "r.yaml"
    file.write_text("defaults:\n  - arithmetic\n  - override parallel: mine\n")
    with pytest.raises(UserError, match=r"parallel/mine\.yaml: is a link to a file that is not there"):
        compose(str(file))

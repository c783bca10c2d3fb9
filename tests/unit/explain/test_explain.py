"""`python -m rlscale explain`: meanings, origins, readers, differences."""

from __future__ import annotations

import re
from dataclasses import MISSING
from pathlib import Path

import pytest
from omegaconf import MISSING as OPEN
from omegaconf import OmegaConf

from rlscale.cli import main
from rlscale.config.composition.assignment import known_keys
from rlscale.config.composition.compose import compose
from rlscale.config.composition.recipe_file import leaves
from rlscale.config.errors import UserError
from rlscale.config.keys import config_hash, plain
from rlscale.config.schema.optim_config import OptimConfig
from rlscale.config.schema.trainer_config import TrainerConfig
from rlscale.explain.configuration_diff import diff_lines
from rlscale.explain.field_docs import meaning
from rlscale.explain.key_lines import key_lines
from rlscale.explain.located_key import locate, value_at
from rlscale.explain.origins import COMMAND_LINE, Origins
from rlscale.explain.readers import readers

RECIPES = ["arithmetic", "arithmetic_mixture", "arithmetic_opd", "calculator", "qwen2_5_1_5b_gsm8k"]
PATHS = ("path", "recipe")
"""Last parts of keys whose values composing anchors to a folder."""


def explained(*words: str) -> str:
    keys = [word for word in words if "=" not in word]
    given = [word for word in words if "=" in word]
    return "\n".join(key_lines(keys, Origins("arithmetic", given)))


@pytest.mark.parametrize("recipe", RECIPES)
def test_the_last_origin_of_every_value_is_what_was_composed(recipe: str) -> None:
    origins = Origins(recipe, ["optim.lr=3e-4", "rollout.sglang.max_running_requests=7"])
    node = origins.composition.node
    composed = dict(leaves(OmegaConf.to_container(node, resolve=False, enum_to_str=True)))  # type: ignore[arg-type]  # of a mapping
    without_origin = []
    for key, value in composed.items():
        if key.startswith(("run.groups", "run.recipe")) or key.endswith(PATHS):
            continue
        if places := origins.of(key):
            assert plain(places[-1].value) == value or str(places[-1].value) == str(value), key
        else:
            without_origin.append(key)
            default = locate(node, key).default
            inside = default is MISSING or value in (OPEN, {}) or isinstance(default, dict)
            assert inside or "${" in str(value) or plain(default) == value, key
    assert len(without_origin) > 100


@pytest.mark.parametrize(
    ("key", "counted"),
    [
        ("cluster.call_timeout_s", "seconds"),
        ("cluster.memory_gb", "gigabytes"),
        ("rollout.max_turn_tokens", "tokens"),
        ("trainer.max_tokens_per_microbatch", "tokens"),
        ("rollout.max_failure_rate", "a share of 1"),
        ("optim.warmup_steps", "steps"),
        ("parallel.tensor", "ranks"),
        ("cluster.rollout_nodes", "machines"),
        ("eval.every", "iterations"),
        ("rollout.temperature", None),
        ("data.seed", None),
        ("rollout.top_k", None),
    ],
)
def test_a_number_is_explained_with_its_unit(key: str, counted: str | None) -> None:
    told = explained(key).splitlines()[2]
    assert ("; unit: " in told, f"; unit: {counted}; " in told) == (bool(counted),) * 2, told


def test_every_key_of_the_schema_has_a_meaning_to_print() -> None:
    node = Origins("arithmetic_mixture", []).composition.node
    for name in known_keys(node):
        key = locate(node, name)
        assert key.field is None or meaning(key.kind, key.field.name), name


def test_a_value_is_followed_from_the_command_line_down_to_the_default() -> None:
    text = explained("optim.lr", "optim.lr=3e-4")
    assert text.splitlines()[:7] == [
        "optim.lr = 0.0003",
        "  Peak learning rate.",
        "  a number, above 0; default 1e-06",
        "  runs that differ in it are different runs",
        "  set by the command line",
        f"  before that recipes/arithmetic.yaml:{line_of('recipes/arithmetic.yaml', 'lr:')}: 0.0007",
        "  before that conf/optim/adam.yaml:2, the option optim=adam: 1e-06",
    ]
    assert "read by rlscale/trainer/megatron/steps/schedule.py" in text
    assert "checked by rlscale/config/checks/learning_rate.py" in text


def line_of(file: str, start: str) -> int:
    lines = (Path(__file__).parents[3] / file).read_text().splitlines()
    return next(number for number, line in enumerate(lines, 1) if line.strip().startswith(start))


BASE = """defaults:
  - arithmetic
  - override optim: mine

optim:
  lr: 1e-3
  schedule: linear
  warmup_steps: 10
"""


def test_recipes_and_options_of_ones_own_are_named_with_their_lines(tmp_path: Path) -> None:
    (tmp_path / "optim").mkdir()
    (tmp_path / "optim" / "mine.yaml").write_text("defaults:\n  - adam\n\nbeta2: 0.95\n")
    (tmp_path / "base.yaml").write_text(BASE)
    top = tmp_path / "top.yaml"
    top.write_text("defaults:\n  - base\noptim:\n  # slower\n  lr: 1e-4\n")
    origins = Origins(str(top), [])
    assert [(one.place, one.value) for one in origins.of("optim.lr")][-2:] == [
        (f"{tmp_path}/base.yaml:6", 1e-3),
        (f"{top}:5", 1e-4),
    ]
    (own,) = [one for one in origins.of("optim.beta2") if one.choice and "mine" in one.place]
    assert own.place == f"{tmp_path}/optim/mine.yaml:4"
    assert value_at(origins.composition.node, "optim.beta2") == 0.95
    assert origins.chosen_by("optim") == f"{tmp_path}/base.yaml:3"
    assert (
        Origins(str(top), ["optim=adam", "optim.lr=1", "optim.schedule=linear", "optim.warmup_steps=1"]).chosen_by(
            "optim"
        )
        == COMMAND_LINE
    )


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("trainer.megatron.recompute_modules", "core_attn"),
        ("optim.megatron.weight_decay", "set by optim.weight_decay, and cannot be given here too"),
        ("rollout.sglang.mem_fraction_static", "fraction of the memory used for static allocation"),
        ("rollout.router.policy", "Load balancing policy"),
        ("critic.trainer.ddp.overlap_grad_reduce", "overlap"),
    ],
)
def test_options_of_packages_are_explained_in_their_words(key: str, words: str) -> None:
    assert words in explained(key)


def test_a_section_lists_its_keys_and_says_who_chose_its_option() -> None:
    text = explained("algo.loss")
    assert "is algo/loss=clip, by algo=grpo" in text
    assert "algo.loss.eps_low = 0.2  # Lower clip" in text


def test_a_value_that_follows_another_key_says_both() -> None:
    assert explained("data.seed", "run.seed=3").startswith("data.seed = 3, following ${run.seed}")


@pytest.mark.parametrize(
    ("key", "problem"),
    [
        ("debug", "debug: is an option and no key; explain debug=tiny_model lists what it sets"),
        ("optim.lrr", "optim.lrr: unknown key; did you mean optim.lr?"),
        ("optim.lr.more", "optim.lr.more: unknown key; did you mean optim.lr?"),
        ("rollout.sglang.mem_fraction", "has no such option; did you mean mem_fraction_static?"),
    ],
)
def test_what_does_not_exist_is_said_with_the_nearest(key: str, problem: str) -> None:
    with pytest.raises(UserError) as caught:
        explained(key)
    assert problem in str(caught.value)


def test_an_option_that_there_is_not_has_no_value_either(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "rollout.sglang.mem_fraction"]) == 2
    assert capsys.readouterr().out == ""


def test_an_option_that_follows_a_key_is_set_by_that_one() -> None:
    text = explained("optim.megatron.clip_grad")
    assert "  set by optim.clip_grad, and cannot be given here too\n" in text
    assert "set by nobody" not in text


@pytest.mark.parametrize(
    ("word", "scope"),
    [
        ("tracker.project=mine", "another value computes the same"),  # as every key of the section
        ("parallel.tensor=2", "another value computes the same"),
        ("run.in_process=true", "of this run alone: no part of the recipe"),
        ("cluster.placement=disaggregated", "runs that differ in it are different runs"),
    ],
)
def test_whether_a_key_decides_what_is_computed_follows_the_sections_around_it(word: str, scope: str) -> None:
    assert f"  {scope}\n" in explained(word.partition("=")[0])
    same = config_hash(compose("arithmetic", [])) == config_hash(compose("arithmetic", [word]))
    assert same == (not scope.startswith("runs"))


def test_an_argument_that_nobody_gives_has_its_own_default() -> None:
    assert "  set by nobody: it has the default of the class or function that takes it\n" in explained("env.turns")


def test_readers_are_told_apart_from_namesakes_of_other_sections() -> None:
    files = {one.file for one in readers("optim.lr", OptimConfig)}
    assert "rlscale/trainer/megatron/steps/schedule.py" in files
    assert not any(one.file.startswith("rlscale/envs/") for one in readers("trainer.recompute", TrainerConfig))


def test_without_keys_everything_that_differs_is_listed_by_place(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "optim.lr=3e-4", "algo=dapo"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("arithmetic: ")
    assert lines[0].endswith(" values are not the schema's defaults")
    assert lines[-2:] == ["the command line", "  optim.lr = 0.0003"]
    assert "algo=dapo" in lines
    assert "recipes/arithmetic.yaml" in lines
    assert not any(line.startswith("  optim.beta1") for line in lines)  # the option repeats the schema's default


def test_two_recipes_are_compared(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "--diff", "arithmetic", "arithmetic_async"]) == 0
    said = capsys.readouterr().out
    assert "  rollout.max_staleness: 0 -> 4\n" in said
    assert "optim.lr: 0.0007 -> 0.0004" in said
    assert "critic.optim.lr" not in said, "which follows optim.lr in both"
    assert re.match(r"arithmetic -> arithmetic_async: \d+ values differ, and \d+ that follow them\n", said)
    assert list(diff_lines("arithmetic", "arithmetic")) == ["arithmetic and arithmetic say the same"]
    assert "  algo.loss.dual_clip: (no such key) -> null" in list(diff_lines("qwen3_30b_math", "gsm8k"))


def test_two_runs_are_compared_with_what_they_ran_on(tmp_path: Path) -> None:
    for name, lr, torch in (("a", "1", "2.1"), ("b", "2", "2.2")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "resolved.yaml").write_text(
            f"optim:\n  lr: {lr}\nran_on:\n  packages:\n    torch: '{torch}'\n"
        )
    lines = list(diff_lines(str(tmp_path / "a"), str(tmp_path / "b")))
    assert lines[1:] == ["  optim.lr: 1 -> 2", "  ran_on.packages.torch: 2.1 -> 2.2"]
    with pytest.raises(UserError, match=r"holds no resolved.yaml; is it the output folder of a run\?"):
        list(diff_lines(str(tmp_path), "arithmetic"))


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["--diff", "arithmetic"], "--diff needs two recipes or output folders"),
        (["--why"], "explain does not know '--why'"),
        (["recipe=a", "recipe=b"], "the recipe is given twice"),
    ],
)
def test_a_wrong_command_line_is_one_line(words: list[str], problem: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", *words]) == 2
    assert problem in capsys.readouterr().err

"""Several sources and evaluation sets: what composes, what each mistake says, what a set takes from `eval`."""

from __future__ import annotations

from pathlib import Path

import pytest

from rlscale.config.checks import check
from rlscale.config.composition.compose import compose
from rlscale.config.composition.written_recipe import write_recipe
from rlscale.config.derived.data_sections import evaluation_sections, reward_of, training_sections
from rlscale.config.derived.eval_sets import eval_sets
from rlscale.config.errors import ConfigError
from rlscale.config.schema import Config
from rlscale.config.schema.data_config import MixtureData
from rlscale.envs.rewards_by_source import common_reward, own_rewards

RECIPE = "arithmetic_mixture"


def sources(config: Config) -> MixtureData:
    assert isinstance(config.data, MixtureData)
    return config.data


def test_a_source_or_a_set_more_is_a_group_choice_and_the_written_recipe_says_it_again(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    more = [
        "data@data.sources.rows.data=jsonl", f"data.sources.rows.data.path={file}", "data.sources.rows.weight=2",
        "reward@data.sources.rows.reward=math", "data@eval.sets.hard.data=jsonl", "eval.sets.hard.data.path=a.jsonl",
        "run.seed=7",
    ]  # fmt: skip
    config = compose(RECIPE, more)
    assert {name: one.weight for name, one in sources(config).sources.items()} == {
        "small": 0.3,
        "large": 0.7,
        "rows": 2,
    }
    assert (sources(config).seed, sources(config).sources["rows"].data.seed) == (7, 7)
    assert config.eval.sets["hard"].data.seed == 0  # runs of different seeds are measured on the same problems
    assert [*training_sections(config)] == [f"data.sources.{name}.data" for name in ("small", "large", "rows")]
    assert [*evaluation_sections(config)] == ["eval.data", "eval.sets.small.data", "eval.sets.hard.data"]
    assert config.eval.sets["hard"].data.path == str(Path.cwd() / "a.jsonl")  # type: ignore[attr-defined]  # a file
    write_recipe(config, tmp_path)
    again = compose(str(tmp_path / "recipe.yaml"))
    assert (again.data, again.eval, again.reward) == (config.data, config.eval, config.reward)


def test_paths_of_sources_in_a_recipe_start_from_its_folder(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(
        f"defaults:\n  - {RECIPE}\n  - data@data.sources.rows.data: jsonl\n  - _self_\n"
        "data:\n  sources:\n    rows: {weight: 1.0, data: {path: rows.jsonl}}\n"
    )
    rows = sources(compose(str(tmp_path / "mine.yaml"))).sources["rows"]
    assert rows.data.path == str(tmp_path / "rows.jsonl")  # type: ignore[attr-defined]  # a file


@pytest.mark.parametrize(
    ("overrides", "wrong"),
    [
        (["data.sources.small.wieght=1"], "did you mean data.sources.small.weight?"),
        (["data.sources.small=1"], "data.sources.small=1: is a section with keys of its own"),
        (
            ["data.sources.new.weight=1"],
            "data.sources.new.data: is not chosen; add data@data.sources.new.data=<option>",
        ),
        (["data@data.sources.new=jsonl"], "the group data fills data or eval.data or data.sources.NAME.data"),
        (["data.sources.small.weight=0"], "data.sources.small.weight=0.0: must be above 0"),
        (["data.sources.small.top_k=0"], "data.sources.small.top_k=0: must be at least 1, or -1 to switch it off"),
        (
            ["data.sources.small.min_p=0.1"],
            "data.sources.small.min_p=0.1: SGLang's sampler on the CPU cannot use it together with a seed, which every "
            "request has; set it to 0, or use data.sources.small.top_p",
        ),
        (
            ["data.sources.small.ignore_eos=true", "rollout.stop_token_ids=[5]"],
            "data.sources.small.stop_token_ids=[5] with data.sources.small.ignore_eos=true: SGLang ends at no token",
        ),
        (
            ["data.sources.small.stop=[END]", "rollout.on_sync=abort_and_resume", "rollout.max_staleness=1"],
            "data.sources.small.stop with rollout.on_sync=abort_and_resume: a text that a sync cuts in two would not",
        ),
        (
            ["eval.sets.small.ignore_eos=true", "eval.sets.small.stop_token_ids=[5]"],
            "eval.sets.small.stop_token_ids=[5] with eval.sets.small.ignore_eos=true: SGLang ends at no token then",
        ),
        (["eval.sets.small.min_p=0.1"], "eval.sets.small.min_p=0.1: SGLang's sampler on the CPU cannot use it"),
        (["data.sources.small.max_response_tokens=9"], "is above rollout.max_response_tokens=5"),
        (["data.sources.small.data.split_seed=4"], "data.sources.small.data.split_seed=4 and eval.data.split_seed=0"),
        (["data.system_prompt=x"], "data.system_prompt=x: each source of a mixture has its own"),
        (
            ["data@data.sources.in.data=mixture"],
            "data.sources.in.data: is a mixture; name its sources in the outer one",
        ),
        (["eval.sets.small.pass_k=[9]"], "eval.sets.small.pass_k=9: must be from 1 to eval.sets.small.samples_per_pro"),
        (["eval.sets.small.temperature=0"], "eval.sets.small.temperature=0 gives the same answer 4 times"),
        (["eval.sets.small.data.split=train"], "eval.sets.small.data.split=train: the evaluation would be on what is"),
        (["reward@data.sources.small.reward=custom"], "data.sources.small.reward.function"),
        (
            ["reward@eval.sets.small.reward=tournament"],
            "eval.sets.small.reward.group_function is never asked, because an evaluation scores each sample by itself; "
            "choose a reward without one (reward@eval.sets.small.reward=<option>)",
        ),
        (
            ["reward=tournament"],
            "eval.sets.small: its reward is that of the training, whose group_function is never asked, because an "
            "evaluation scores each sample by itself, and whose function gives each 0; choose eval.enabled=false, or "
            "reward@eval.sets.small.reward=<option>",
        ),
        (
            ["reward@data.sources.small.reward=tournament", "eval.data=null", "~eval.prompts"],
            "eval.sets.small: its reward is that of the training, whose group_function is never asked",
        ),
        (["reward=tournament"], "whose function gives each 0; choose eval.enabled=false, or eval.data=null"),
    ],
)
def test_a_mistake_is_told(overrides: list[str], wrong: str) -> None:
    with pytest.raises(ConfigError) as raised:
        check(compose(RECIPE, overrides))
    assert any(wrong in line for line in raised.value.problems), raised.value.problems


def test_a_group_reward_beside_a_reward_is_left_out_of_evaluations_with_a_note() -> None:
    config = compose(RECIPE, ["reward.group_function._target_=my_group_rewards.Rare"])
    assert [note for note in check(config) if "group_function" in note] == [
        f"{section}: the training's group_function is never asked, because an evaluation scores each sample by itself"
        for section in ("eval", "eval.sets.small")
    ]


def test_a_set_is_measured_like_eval_but_for_what_it_says_and_may_stand_alone() -> None:
    config = compose(RECIPE, ["eval.temperature=0.5", "eval.sets.small.every=3"])
    first, small = eval_sets(config.eval).values()
    assert (first.name, first.section, first.config) == ("", "eval", config.eval)
    assert (small.data_key, small.config.every, small.config.samples_per_prompt) == ("eval.sets.small.data", 3, 4)
    assert (small.config.temperature, small.config.data) == (0.5, config.eval.sets["small"].data)
    alone = compose(RECIPE, ["~eval.prompts", "eval.data=null"])
    assert [*eval_sets(alone.eval)] == ["small"]


def test_what_a_source_or_set_takes_from_the_rest_is_told_there_alone() -> None:
    with pytest.raises(ConfigError) as raised:
        check(compose(RECIPE, ["rollout.min_p=0.1", "eval.min_p=0.2", "data.sources.small.top_k=4"]))
    told = [line.partition(":")[0] for line in raised.value.problems]
    assert told == ["rollout.min_p=0.1", "eval.min_p=0.2"]


def test_each_source_and_set_has_its_reward() -> None:
    config = compose(RECIPE, ["reward@data.sources.small.reward=none"])
    own = sources(config).sources["small"].reward
    assert own is not None
    judged = {key: reward_of(config, key) is own for key in (*training_sections(config), *evaluation_sections(config))}
    assert judged == {
        "data.sources.small.data": True,
        "data.sources.large.data": False,
        "eval.data": False,
        "eval.sets.small.data": True,  # it has the name of that source
    }
    assert own_rewards(config.data, config.eval) == {"small": own}
    assert common_reward(config.data, config.reward, config.eval) is config.reward
    both = compose(RECIPE, ["reward@eval.sets.small.reward=math", "reward@data.sources.small.reward=none"])
    assert own_rewards(both.data, both.eval).keys() == {"small", "eval/small"}
    assert reward_of(both, "eval.sets.small.data") is both.eval.sets["small"].reward

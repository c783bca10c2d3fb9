"""`debug=NAME`: what it changes, what wins over it, and the small models that it trains."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rlscale.config.checks import check
from rlscale.config.composition.compose import compose
from rlscale.config.composition.published_configs import published
from rlscale.config.errors import UserError
from rlscale.config.schema.model_config import DType
from rlscale.config.schema.trainer_config import EightBits
from rlscale.explain.origins import Origins
from rlscale.families import FAMILIES, reach_of
from rlscale.families.config_file import complete, problems
from rlscale.families.family import Reach
from rlscale.families.shrunk import shrunk
from rlscale.families.tensors import parameter_count

DATA = ["data.path=train.jsonl", "eval.data.path=test.jsonl"]
LARGE = ["deepseek_v3_math", "glm4_5_air_math", "llama3_8b_math", "qwen2_5_1_5b_gsm8k", "qwen3_30b_math"]


@pytest.mark.parametrize("recipe", LARGE)
def test_a_large_recipe_fits_this_machine_and_is_otherwise_the_same(recipe: str) -> None:
    usual, tiny = compose(recipe, DATA), compose(recipe, [*DATA, "debug=tiny_model"])
    check(tiny)
    assert tiny.cluster.device.name == "cpu"
    assert (tiny.parallel.tensor, tiny.parallel.expert, tiny.rollout.engines) == (1, 1, 1)
    assert tiny.model.path is None
    assert tiny.model.create is not None
    assert tiny.model.create.architecture["model_type"] == published()[usual.model.path or ""]["model_type"]
    assert (tiny.algo, tiny.reward, tiny.optim.lr) == (usual.algo, usual.reward, usual.optim.lr)
    assert tiny.data.system_prompt == usual.data.system_prompt
    assert tiny.run.iterations == 3


@pytest.mark.parametrize("recipe", ["arithmetic_async", "arithmetic_sft"])
def test_a_recipe_with_a_model_of_its_own_keeps_it_and_where_it_runs(recipe: str) -> None:
    usual, tiny = compose(recipe), compose(recipe, ["debug=tiny_model"])
    check(tiny)
    assert tiny.model == usual.model
    assert tiny.cluster.placement == usual.cluster.placement
    assert tiny.rollout.max_response_tokens == usual.rollout.max_response_tokens == 5
    assert tiny.rollout.samples_per_group == min(usual.rollout.samples_per_group, 4)


@pytest.mark.parametrize("name", sorted(published()))
def test_shrunk_models_are_of_their_family_whole_and_small(name: str) -> None:
    config = published()[name]
    assert shrunk(complete(config)) == shrunk(complete(shrunk(config) | {"vocab_size": 64}))
    small = shrunk(complete(config)) | {"vocab_size": 112, "bos_token_id": None, "eos_token_id": 3, "pad_token_id": 0}
    assert list(problems(small)) == []
    whole, given = complete(small), complete(config)
    assert list(FAMILIES[whole["model_type"]].unsupported(whole)) == []
    assert parameter_count(whole) < 3e6
    for key in ("tie_word_embeddings", "attention_bias", "rms_norm_eps", "rope_parameters", "norm_topk_prob"):
        assert whole.get(key) == given.get(key), key
    fewer = whole["num_key_value_heads"] < whole["num_attention_heads"]
    assert fewer == (given["num_key_value_heads"] < given["num_attention_heads"])


def test_the_option_wins_over_what_stands_before_it_and_loses_to_what_follows() -> None:
    words = ["cluster=node8", "rollout.engines=8", "trainer.megatron.moe_token_dispatcher_type=alltoall", *DATA]
    tiny = compose("qwen3_30b_math", [*words, "optim.lr=1e-5", "debug=tiny_model", "rollout.samples_per_group=6"])
    assert tiny.cluster.device.name == "cpu"
    assert tiny.rollout.engines == 1
    assert tiny.trainer.megatron == {}
    assert tiny.optim.lr == 1e-5  # the option says nothing of it
    assert tiny.rollout.samples_per_group == 6
    after = compose("qwen3_30b_math", [*DATA, "debug=tiny_model", "model.dtype=bfloat16"])
    assert after.model.dtype is DType.bfloat16


def test_options_that_are_chosen_before_it_are_changed_too() -> None:
    words = ["model=glm4_7_flash", "cluster=multinode_disaggregated", *DATA, "debug=tiny_model"]
    tiny = compose("qwen3_30b_math", words)
    assert tiny.model.create is not None
    assert tiny.model.create.architecture["model_type"] == "glm4_moe_lite"
    assert tiny.model.tool_parser == compose("qwen3_30b_math", words[:-1]).model.tool_parser
    assert tiny.cluster.device.name == "cpu"
    assert tiny.cluster.placement.name == "disaggregated"


def test_the_attention_of_a_small_model_sees_the_longer_texts_of_its_tokenizer() -> None:
    words = ["model=glm5", *DATA, "rollout.max_response_tokens=1024", "debug=tiny_model"]
    tiny = compose("qwen3_30b_math", words)
    check(tiny)
    assert tiny.model.create is not None
    assert reach_of(complete({**tiny.model.create.architecture, "vocab_size": 112})) == Reach(202_752, "index_topk")


def test_a_model_of_ones_own_is_shrunk_by_its_config_alone(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(published()["zai-org/GLM-4.5-Air"]))
    tiny = compose("gsm8k", [*DATA, f"model.path={tmp_path}", "debug=tiny_model"])
    assert tiny.model.path is None
    assert tiny.model.create is not None
    assert tiny.model.create.architecture["model_type"] == "glm4_moe"
    with pytest.raises(UserError, match="is neither downloaded nor one of the shipped models"):
        compose("gsm8k", [*DATA, "model.path=some/other", "debug=tiny_model"])


def test_one_iteration_and_no_engines() -> None:
    one = compose("arithmetic", ["debug=one_iteration"])
    assert (one.run.iterations, one.eval.enabled, one.warm_start) == (1, False, None)
    alone = compose("arithmetic", ["debug=no_engines", "rollout.replay=stored"])
    assert alone.rollout.replay is not None
    assert compose("arithmetic", ["rollout.replay=stored", "debug=no_engines"]).rollout.replay == alone.rollout.replay
    with pytest.raises(UserError, match=r"rollout\.replay: has no value"):
        compose("arithmetic", ["debug=no_engines"])


def test_an_option_of_ones_own_lies_beside_the_recipe(tmp_path: Path) -> None:
    recipe = tmp_path / "mine.yaml"
    recipe.write_text("defaults:\n  - arithmetic\n")
    (tmp_path / "debug").mkdir()
    (tmp_path / "debug" / "short.yaml").write_text("at_most:\n  run.iterations: 7\n")
    assert compose(str(recipe), ["debug=short"]).run.iterations == 7
    assert compose(str(recipe), ["run.iterations=5", "debug=short"]).run.iterations == 5
    (tmp_path / "debug" / "short.yaml").write_text("iterations: 7\n")
    with pytest.raises(UserError, match=r"short\.yaml: iterations: 7; a debug option has choices, values, at_most"):
        compose(str(recipe), ["debug=short"])


def test_what_an_option_names_must_exist(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("defaults:\n  - arithmetic\n")
    (tmp_path / "debug").mkdir()
    wrong = "choices: {trakcer: none}\ndrops: [traner.megatron]\nat_most: {run.iteratons: 2}\n"
    (tmp_path / "debug" / "wrong.yaml").write_text(wrong)
    with pytest.raises(UserError) as caught:
        compose(str(tmp_path / "mine.yaml"), ["debug=wrong"])
    lines = [line.removeprefix(f"{tmp_path}/debug/wrong.yaml: ") for line in str(caught.value).splitlines()]
    assert lines[0].startswith("trakcer=none: there is no group trakcer; did you mean tracker?")
    assert lines[1:] == [
        "run.iteratons: unknown key; did you mean run.iterations?",
        "traner.megatron: unknown key; did you mean trainer.megatron?",
    ]


def test_groups_inside_others_and_those_that_a_recipe_leaves_out_can_be_chosen(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("defaults:\n  - arithmetic\n")
    (tmp_path / "debug").mkdir()
    (tmp_path / "debug" / "other.yaml").write_text(
        "choices: {algo/advantage: returns, rollout/filter: varied_rewards}\n"
    )
    found = compose(str(tmp_path / "mine.yaml"), ["debug=other"])
    assert found.run.groups["algo/advantage"] == "returns"
    assert found.run.groups["rollout/filter"] == "varied_rewards"


def test_a_section_that_was_dropped_may_be_dropped_by_the_option_too() -> None:
    assert compose("arithmetic", ["~warm_start", "debug=tiny_model"]).warm_start is None


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["debug=tiny"], "debug=tiny: no such option; did you mean tiny_model?"),
        (["debug=tiny_model", "debug=no_engines"], "debug=no_engines: debug=tiny_model is given, too; one at a time"),
    ],
)
def test_a_wrong_choice_is_one_line(words: list[str], problem: str) -> None:
    with pytest.raises(UserError) as caught:
        compose("arithmetic", words)
    assert problem in str(caught.value)


def test_a_recipe_does_not_choose_it(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("defaults:\n  - arithmetic\n  - debug: one_iteration\n")
    with pytest.raises(UserError, match="debug is chosen on the command line, not in a recipe"):
        compose(str(tmp_path / "mine.yaml"))


def test_explain_names_the_option_as_the_origin() -> None:
    origins = Origins("qwen3_30b_math", [*DATA, "rollout.engines=8", "debug=tiny_model", "optim.lr=1"])
    last: dict[str, Any] = dict(origins.all)
    for key in ("rollout.engines", "model.path", "model.create.architecture.num_experts", "cluster.placement"):
        assert last[key].choice == "debug=tiny_model", key
        assert last[key].place.startswith("conf/debug/tiny_model.yaml:"), key
    assert last["optim.lr"].place == "the command line"
    assert "rollout.gpus_per_engine" not in last


def test_without_engines_nothing_speculates_and_no_models_are_served_beside_the_policy(tmp_path: Path) -> None:
    judge = ["rollout.models.judge.path=/m", "rollout.models.judge.sglang.max_running_requests=3"]
    draft = ["rollout.speculation.algorithm=standalone", "rollout.speculation.draft=nobody/draft"]
    config = compose(None, [*judge, *draft, "debug=no_engines", f"rollout.replay={tmp_path}"])
    assert config.rollout.speculation == compose(None, []).rollout.speculation
    assert config.rollout.models == {}
    check(config)


@pytest.mark.parametrize("recipe", ["arithmetic", "arithmetic_async", "calculator"])
def test_engines_without_a_model_are_compared_with_nothing(recipe: str) -> None:
    config = compose(recipe, ["debug=simulated_engines", "run.in_process=true"])
    check(config)
    assert config.rollout.engine["_target_"].endswith(".SimulatedLauncher")
    assert config.weights.canary_bound == 1000
    assert not config.eval.enabled
    own = compose(recipe, ["debug=simulated_engines", "rollout.engine.median=3"])
    assert own.rollout.engine["median"] == 3


@pytest.mark.parametrize(
    "words",
    [
        ["run.bitwise=true"],
        ["rollout.engine_urls=[http://127.0.0.1:1]", "rollout.engine_key_file={key}"],
        ["rollout.engines_at_most=4", "rollout.engine_key_file={key}"],
        ["rollout.engines=2", "rollout.engines_at_least=2"],
        [
            *("rollout.engines_at_most=4", "rollout.engine_key_file={key}", "rollout.engines_on_spare_machines=true"),
            *("cluster.ray_address=auto", "cluster.host=0.0.0.0"),
        ],
    ],
)
@pytest.mark.parametrize("option", ["simulated_engines", "tiny_model", "no_engines"])
def test_what_is_said_of_other_engines_than_the_options_falls_away(
    option: str, words: list[str], tmp_path: Path
) -> None:
    key = tmp_path / "key"
    key.write_text("0123456789abcdef")
    replay = [f"rollout.replay={tmp_path}"] if option == "no_engines" else []
    config = compose("arithmetic_async", [*(word.format(key=key) for word in words), f"debug={option}", *replay])
    check(config)
    assert (config.rollout.engine_urls, config.rollout.engine_key_file) == ([], None)


def test_on_a_laptop_nothing_of_several_machines_or_of_gpus_is_left() -> None:
    words = ["parallel.data=2", "run.recover_smaller_after_s=600", "model.dtype=bfloat16", "trainer.fp8=blockwise"]
    config = compose("arithmetic", [*words, "cluster=node8", "debug=tiny_model"])
    check(config)
    assert (config.trainer.fp8, config.run.recover_smaller_after_s) == (EightBits.none, 120.0)

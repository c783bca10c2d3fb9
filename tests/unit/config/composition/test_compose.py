"""Composing: recipe, groups and overrides become one typed tree, and every mistake is named at once."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path

import pytest

from rlscale.config.composition.compose import compose
from rlscale.config.errors import ConfigError
from rlscale.config.keys import config_hash
from rlscale.config.schema.algo_config import ClipLoss, GspoLoss
from rlscale.config.schema.data_config import ArithmeticData, FileData

Problems = Callable[..., list[str]]

MODELS = sorted(file.stem for file in (Path(__file__).parents[4] / "conf" / "model").glob("*.yaml"))
"""The options of `model` that are shipped."""


def test_values_of_recipe_and_command_line_arrive_typed(plain_recipe: str) -> None:
    config = compose(plain_recipe, ["optim.lr=1e-6", "run.iterations=3", "algo.loss.eps_high=0.28"])
    assert (config.optim.lr, config.run.iterations, config.run.recipe) == (1e-6, 3, "plain")
    assert config.algo.loss == ClipLoss(eps_low=0.2, eps_high=0.28)
    assert isinstance(config.data, ArithmeticData)
    assert config.data.split == "train"
    assert isinstance(config.eval.data, ArithmeticData)
    assert config.eval.data.split == "held_out"


def test_a_group_option_brings_its_own_type(plain_recipe: str) -> None:
    assert isinstance(compose(plain_recipe, ["algo=gspo"]).algo.loss, GspoLoss)
    data = compose(plain_recipe, ["data=jsonl", "data.path=/x.jsonl"]).data
    assert isinstance(data, FileData)
    assert data.path == "/x.jsonl"


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        (
            ["algo=grpo", "algo=ppo"],
            "algo=ppo: algo is chosen twice, the other time by algo=grpo; leave one of them out",
        ),
        (
            ["algo/correction=bypass", "algo/correction=tis"],
            "algo/correction=tis: algo.correction is chosen twice, the other time by algo/correction=bypass; leave one "
            "of them out",
        ),
        (
            ["data@eval.data=arithmetic", "data@eval.data=arithmetic"],
            "data@eval.data=arithmetic: eval.data is chosen twice, the other time by data@eval.data=arithmetic; leave "
            "one of them out",
        ),
    ],
    ids=" ".join,
)
def test_a_group_is_chosen_once(problems: Problems, overrides: list[str], line: str) -> None:
    assert problems(*overrides) == [line]


def test_a_nested_group_can_be_chosen_alone(plain_recipe: str) -> None:
    config = compose(plain_recipe, ["algo/kl=loss"])
    assert (config.algo.kl.placement.name, config.algo.kl.coef, config.algo.name) == ("loss", 1e-3, "grpo")


def test_the_configuration_is_read_only_and_survives_pickling(plain_recipe: str) -> None:
    config = pickle.loads(pickle.dumps(compose(plain_recipe)))
    assert config == compose(plain_recipe)
    with pytest.raises(AttributeError, match="read-only"):
        config.optim.lr = 1.0


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("optim.lrr=1", "optim.lrr: unknown key; did you mean optim.lr?"),
        ("lr=1", "lr: unknown key; did you mean optim.lr?"),
        ("parallel.tensro=2", "parallel.tensro: unknown key; did you mean parallel.tensor?"),
        ("rollout.n_samples_per_prompt=4", "did you mean rollout.samples_per_group?"),
        ("modle.path=x", "did you mean model.path?"),
        ("run.iterations=2.5", "run.iterations=2.5: must be an integer"),
        ("optim.lr=fast", "optim.lr=fast: must be a number"),
        ("trainer.deterministic=3", "trainer.deterministic=3: must be true or false"),
        ("eval.pass_k=[a]", "must be a list, each entry an integer"),
        ("parallel.data=[1]", "must be an integer or null"),
        (
            "algo.reduction.kind=token_men",
            "must be one of sample_mean, sample_sum, token_mean, constant, custom; did you",
        ),
        (
            "algo.reduction=token_men",
            "algo/reduction=<option>; did you mean algo/reduction=token_mean?",
        ),
        ("model.dtype=float64", "model.dtype=float64: must be one of float32, bfloat16, float16"),
        ("algo.score=raw", "algo.score is a section with keys of its own; choose an option with algo/score=raw"),
        ("algo.correction.weight=tsi", "must be one of none, tis, icepop, mis, custom; did you mean tis?"),
        ("algo.corection.weight=tis", "unknown key; did you mean algo.correction.weight?"),
        ("algo.advantage.lam=0.9", "algo.advantage.lam: is not a key of the chosen option; choose algo/advantage=gae"),
        ("algo.gae_lambda=0.9", "did you mean algo.advantage.lam, of algo/advantage=gae?"),
        ("algo.loss.tau_positive=2", "is not a key of the chosen option; choose algo/loss=sapo"),
        ("critic_lr=1e-5", "did you mean critic.optim.lr?"),
        ("critic.optim=adam", "critic.optim is a section with keys of its own; set critic.optim.<key>=..."),
        ("critic.optm.lr=1", "critic.optm.lr: unknown key; did you mean critic.optim.lr?"),
        (
            "algo/correction=opsm",
            "algo.correction.opsm_delta: has no value; give algo.correction.opsm_delta=... (a number",
        ),
        (
            "model=qwen3_30bb",
            f"no such option; did you mean qwen3_30b? Available: {', '.join(sorted([*MODELS, 'four_heads']))}",
        ),
        ("algo/los=clip", "there is no group algo/los; did you mean algo/loss?"),
        ("data@evl.data=jsonl", "the group data fills data or eval.data"),
        ("eval.data=jsonl", "choose an option with data@eval.data=jsonl"),
        ("algo.loss=gspo", "choose an option with algo/loss=gspo"),
        ("algo=grpo,gspo", "add -m to run them"),
        ("hydra.run.dir=x", "has no effect"),
        ("~tracker", "recipe plain sets no value of tracker that could be dropped"),
        ("optim.lr", "options are written key=value"),
        ("rollout.min_p=0.1", "cannot use it together with a seed"),
        ("run.groups={a: b}", "run.groups: is set by composing"),
        ("run.output=${nowhere}", "run.output: Interpolation key 'nowhere' not found"),
        ("data=jsonl", "data.path: has no value; give data.path=..."),
        ("data.path=x.jsonl", "data.path: is not a key of the chosen option; choose data=jsonl or data=parquet"),
        ("eval.data.source._target_=a.B", "or data@eval.data=custom or"),
        ("algo.loss.dual_clipp=3", "algo.loss.dual_clipp: unknown key; did you mean algo.loss.dual_clip?"),
        ("checkpoint.optimizer=false", "checkpoint.optimizer: unknown key"),
        ("trainer.longest=3", "rguments of the class trainer._target_ go under trainer.arguments"),
        ("trainer.lr=3", "trainer.lr: unknown key; did you mean optim.lr?"),
        ("buffer=mine.HardFirst", "of your own is named by buffer._target_=mine.HardFirst. Available: oldest_first"),
        ("reward=mine.f", "of your own is named by reward.function._target_=mine.f. Available"),
        ("model=mine.folder", "values inside are set with model.<key>=... Available"),
    ],
)
def test_a_mistake_is_one_line_that_says_what_to_change(problems: Problems, override: str, line: str) -> None:
    (found,) = problems(override)
    assert line in found
    assert "\n" not in found


def test_all_mistakes_are_reported_together(problems: Problems) -> None:
    found = problems("optim.lrr=1", "run.iterations=x", "algo.score.kind=best")
    assert [line.split(":")[0] for line in found] == ["optim.lrr", "run.iterations=x", "algo.score.kind=best"]


def test_choosing_against_values_of_the_recipe_is_an_error_that_names_them(problems: Problems) -> None:
    (line,) = problems("optim=adam_cosine", "optim.lr=1e-3")
    assert line.startswith("optim=adam_cosine: recipe plain sets optim.weight_decay=0.0 for another optim option")
    assert line.endswith("or drop the recipe's with '~optim.weight_decay'")
    assert problems("optim=adam_cosine", "optim.lr=1e-3", "~optim.weight_decay") == []
    assert problems("optim=adam") == []


def test_a_dropped_value_is_that_of_the_option(plain_recipe: str) -> None:
    config = compose(plain_recipe, ["optim=adam_cosine", "~optim"])
    assert (config.optim.lr, config.optim.weight_decay) == (1e-6, 0.01)


def test_dropping_what_the_recipe_does_not_set_is_an_error(problems: Problems) -> None:
    assert problems("~optim.eps") == ["~optim.eps: recipe plain sets no value of optim.eps that could be dropped"]


def test_relative_paths_become_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, plain_recipe: str) -> None:
    (tmp_path / "owner" / "model").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    overrides = ["data=jsonl", "data.path='x.jsonl@[1:2]'", "model.create=null"]
    config = compose(plain_recipe, [*overrides, "model.path=owner/model"])
    assert isinstance(config.data, FileData)
    assert config.data.path == f"{tmp_path}/x.jsonl@[1:2]"
    assert config.model.path == f"{tmp_path}/owner/model"
    assert compose(plain_recipe, [*overrides, "model.path=owner/other"]).model.path == "owner/other"


def test_options_of_open_sections_need_no_plus(plain_recipe: str) -> None:
    config = compose(
        plain_recipe, ["rollout.sglang.schedule_policy=fcfs", "reward=custom", "reward.function._target_=a.B"]
    )
    assert config.rollout.sglang == {"schedule_policy": "fcfs"}
    assert config.reward.function == {"_target_": "a.B"}


def test_the_hash_changes_with_what_is_computed_and_with_nothing_else(plain_recipe: str) -> None:
    same = [
        "run.output=/x",
        "run.root=y",
        "run.scratch=z",
        "run.progress=plain",
        "tracker=wandb",
        "checkpoint.resume=never",
        "checkpoint.keep=7",
        "checkpoint.every=3",
        "run.report_samples=1",
        "run.report_samples_every=3",
        "rollout.engine_urls=[http://127.0.0.1:1]",
        "rollout.max_concurrent=3",
        "rollout.request_timeout_s=5",
        "rollout.step_timeout_s=5",
        "rollout.request_retries=9",
        "rollout.max_failure_rate=0.9",
        "reward.timeout_s=3",
        "reward.workers=2",
        "reward.max_failure_rate=0.9",
        "weights.timeout_s=5",
        "weights.canary_bound=0.5",
        "weights.verify_every=1",
        "weights.max_logprob_diff=0.5",
        "cluster.ray_address=auto",
        "cluster.start_timeout_s=5",
        "cluster.call_timeout_s=5",
        "cluster.max_engines=9",
        "cluster.max_trainer_ranks=9",
        "cluster.engine_restarts=9",
        "run.recover=none",
        "run.recover_at_most=9",
        "run.recover_smaller_after_s=null",
        "cluster.memory_gb=99",
        "parallel.tensor=2",
        "trainer.distributed_optimizer=true",
        "trainer.threads=2",
        "trainer.max_skipped_steps=9",
        "critic.trainer.max_skipped_steps=9",
    ]
    first = config_hash(compose(plain_recipe))
    for override in same:
        assert config_hash(compose(plain_recipe, [override])) == first, override
    for override in ("optim.lr=1e-3", "run.seed=1", "run.iterations=7", "algo=gspo", "rollout.sglang.tp_size=2"):
        assert config_hash(compose(plain_recipe, [override])) != first, override
    assert config_hash(compose(plain_recipe, ["algo/kl=loss", "algo.kl.placement=none", "algo.kl.coef=0"])) == first


def test_config_error_keeps_its_lines_through_pickling() -> None:
    error = pickle.loads(pickle.dumps(ConfigError(["a", "b"])))
    assert (error.problems, str(error)) == (["a", "b"], "a\nb")


def test_runs_of_a_seed_sweep_are_measured_on_the_same_problems() -> None:
    for option in ("arithmetic_held_out", "jsonl"):
        path = [] if option == "arithmetic_held_out" else ["eval.data.path=/x.jsonl"]
        first, second = (compose(None, [f"data@eval.data={option}", *path, f"run.seed={seed}"]) for seed in (3, 4))
        assert first.eval.data == second.eval.data
        assert (first.data.seed, second.data.seed) == (3, 4)
    assert compose(None, ["run.seed=3", "eval.data.seed=7"]).eval.data.seed == 7


@pytest.mark.parametrize("given", ["x.jsonl@100:200", "x.jsonl@-2:", "x.jsonl@:5", "[x.jsonl@:5,sub/y.parquet]"])
def test_a_data_path_is_written_on_a_command_line_without_quotes(given: str) -> None:
    from rlscale.config.composition.written_recipe import recipe_text
    from rlscale.config.derived.data_paths import path_texts

    config = compose(None, ["data=jsonl", f"data.path={given}"])
    expected = [str(Path.cwd() / text) for text in given.strip("[]").split(",")]
    assert isinstance(config.data, FileData)
    assert path_texts(config.data.path, "data") == expected
    assert all(text in recipe_text(config) for text in expected)

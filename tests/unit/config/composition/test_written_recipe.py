"""What a run writes can be run again, anywhere."""

from __future__ import annotations

from pathlib import Path

import pytest
from omegaconf import OmegaConf

from rlscale.config.composition.compose import compose
from rlscale.config.composition.written_recipe import recipe_text, write_recipe
from rlscale.config.keys import config_hash, plain
from rlscale.config.schema import Config

BASE = """
defaults:
  - rlscale_schema
  - model: tiny_qwen3
  - algo: grpo
  - cluster: local_cpu
  - data: arithmetic
  - data@eval.data: arithmetic_held_out
  - reward: arithmetic
  - optim: adam
  - _self_
optim:
  lr: 4.0e-4
  weight_decay: 0.0
"""
"""Shipped options only: a written recipe keeps their names."""

CASES = [
    ("arithmetic", []),
    ("arithmetic_sft", []),
    (None, ["algo=gspo", "algo/kl=loss", "algo.kl.coef=0.5", "optim.lr=1e-5", "tracker=wandb"]),
    (None, ["algo/loss=gspo", "algo.loss.eps_low=1e-4"]),
    (None, ["data=jsonl", "data.path=/x.jsonl", "data.label_key=null", "eval.pass_k=[1,2]"]),
    (
        None,
        [
            "model=qwen3_30b",
            "model.create=null",
            "cluster=multinode_disaggregated",
            "parallel=moe_multinode",
            "model.dtype=float32",
        ],
    ),
    (
        None,
        [
            "algo=ppo",
            "algo.advantage.lam=0.95",
            "critic.optim.lr=1e-2",
            "critic.warmup_iterations=3",
            "critic.clip=null",
        ],
    ),
    (None, ["algo=ppo", "optim.megatron.a=1", "critic.optim.megatron={}", "critic.trainer.ddp.b=2"]),
    (None, ["algo=ppo", "optim.megatron={a: 1, b: 2}", "critic.optim.megatron.a=1", "critic.model.create.seed=3"]),
    (None, ["algo=ppo", "critic.model.create=null", "critic.model.path=owner/critic", "critic.model.dtype=bfloat16"]),
    (None, ["algo=opd", "teacher.path=owner/teacher"]),
    (None, ["model=owner/model", "model.dtype=float32"]),
    (None, ["algo/correction=opsm", "algo.correction.opsm_delta=1e-3"]),
    (
        None,
        [
            "algo/correction=rejection",
            "algo.correction.rejection.level=null",
            "algo.correction.rejection.lower=null",
            "algo.correction.rejection.upper=null",
        ],
    ),
    (None, ["algo/score=custom", "algo.score.function={_target_: a.b, c: 1}", "algo/reduction=constant"]),
    (None, ["trainer.megatron.moe_router_dtype=fp32", "rollout.sglang={a: {b: [1, 2]}}", "model.create.seed=3"]),
]


@pytest.fixture
def base(tmp_path: Path) -> str:
    """A recipe whose numbers the tests may count on."""
    (tmp_path / "from").mkdir()
    (tmp_path / "from" / "base.yaml").write_text(BASE)
    return str(tmp_path / "from" / "base.yaml")


def again(config: Config, folder: Path) -> Config:
    write_recipe(config, folder)
    return compose(str(folder / "recipe.yaml"))


@pytest.mark.parametrize(("recipe", "overrides"), CASES)
def test_a_written_recipe_composes_to_the_same(
    tmp_path: Path, base: str, recipe: str | None, overrides: list[str]
) -> None:
    config = compose(recipe or base, overrides)
    repeated = again(config, tmp_path)
    assert plain(repeated) == plain(config)
    assert repeated == config
    assert config_hash(repeated) == config_hash(config)


def test_a_text_that_looks_like_an_interpolation_stays_a_text(tmp_path: Path, base: str) -> None:
    with open(base, "a") as file:
        file.write("data:\n  system_prompt: 'costs \\${5} each'\n")
    config = compose(base)
    assert config.data.system_prompt == "costs ${5} each"
    assert again(config, tmp_path) == config


def test_a_written_recipe_says_choices_and_differing_values_only(base: str) -> None:
    written = OmegaConf.create(recipe_text(compose(base, ["algo/kl=loss", "optim.lr=1e-5"])))
    assert {"algo": "grpo"} in written.defaults
    assert {"override algo/kl": "loss"} in written.defaults
    assert written.defaults[0] == "rlscale_schema"
    assert written.defaults[-1] == "_self_"
    assert written.optim == {"lr": 1e-5, "weight_decay": 0.0}
    assert "algo" not in written
    assert "warm_start" not in written


def test_a_written_recipe_holds_no_folder_no_address_and_no_key(tmp_path: Path) -> None:
    config = compose(
        None,
        [
            "run.output=/secret/out",
            "run.root=/secret/root",
            "run.scratch=/secret/scratch",
            "checkpoint.resume=never",
            "cluster.ray_address='10.9.8.7:6379'",
            "rollout.engine_urls=['http://10.9.8.7:30000']",
            "rollout.engine_key_file=/secret/key",
        ],
    )
    text = recipe_text(config)
    assert "secret" not in text
    assert "10.9.8.7" not in text
    assert "never" not in text
    assert config_hash(again(config, tmp_path)) == config_hash(config)


def test_an_option_of_ones_own_is_written_out_by_its_values(tmp_path: Path) -> None:
    home = tmp_path / "home"
    for name, text in {
        "optim/mine.yaml": "lr: 0.125\nschedule: cosine\n",
        "data/mine.yaml": "defaults: [file_schema, _self_]\npath: /x.parquet\nprompt_key: q\n",
        "algo/mine.yaml": "defaults: [{score: mine}, {advantage: mine}, {kl: loss}, {loss: clip}, {correction: mine}, "
        "{reduction: token_mean}, _self_]\nname: mine\nwhiten: true\n",
        "algo/score/mine.yaml": "kind: raw\n",
        "algo/advantage/mine.yaml": "defaults: [returns_schema, _self_]\ngamma: 0.5\n",
        "algo/correction/mine.yaml": "weight: tis\nupper: 3\n",
        "mine.yaml": "defaults: [rlscale_schema, {model: tiny_qwen3}, {algo: mine}, {cluster: local_cpu}, "
        "{data: mine}, {optim: mine}, _self_]\n",
    }.items():
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_text(text)
    config = compose(str(home / "mine.yaml"))
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    repeated = again(config, elsewhere)
    assert (repeated.optim, repeated.data, repeated.algo) == (config.optim, config.data, config.algo)
    assert repeated.run.recipe == "mine"
    assert config_hash(repeated) == config_hash(config)


def test_resolved_yaml_has_every_value_and_what_it_ran_on(tmp_path: Path) -> None:
    config = compose()
    write_recipe(config, tmp_path)
    resolved = OmegaConf.to_container(OmegaConf.load(tmp_path / "resolved.yaml"))
    assert isinstance(resolved, dict)
    ran_on = resolved.pop("ran_on")
    assert resolved == plain(config)
    assert ran_on["python"].startswith("3.")
    assert ran_on["packages"]["omegaconf"] == "2.3.1"
    assert {"commit", "rlscale", "system", "cores"} <= set(ran_on)

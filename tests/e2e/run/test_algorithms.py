"""Every shipped algorithm through the command line: two iterations each on the session's engine, most in a sweep."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from rlscale.config.composition.locations import conf_dir
from rlscale.config.schema.model_config import CreateModelConfig, ModelConfig
from rlscale.data.folders.model_folder import ensure_model_folder
from tests.e2e.run.command import metrics, only_run, run, summary
from tests.e2e.run.exported import check_exported
from tests.e2e.shared_server import MODEL_FILE

pytestmark = pytest.mark.timeout(400)

ONE_STEP = ("dr_grpo", "rloo", "sapo", "reinforce_pp_baseline")
"""Run with one step and one epoch per iteration, as their files say."""
MANY_STEPS = ("gspo", "gspo_token", "cispo", "dapo", "reinforce_pp")
"""Run with two steps and two epochs per iteration; so is ppo."""
ELSEWHERE = ("grpo", "sft")
"""What the default recipe and its warm start run: see test_default_recipe.py."""
TWICE = ("algo.steps_per_iteration=2", "algo.epochs_per_iteration=2")
GROUPS, SAMPLES = 4, 16

REWARD = "def varied(response, label, info):\n    return sum(map(ord, response)) % 8 / 8\n"
"""A reward that tells the samples of a model apart that cannot calculate yet."""


@pytest.fixture
def learning(short: list[str], tmp_path: Path) -> list[str]:
    """Overrides of a short run in `tmp_path` that has something to learn from its first sample on."""
    (tmp_path / "varied.py").write_text(REWARD)
    return [
        *short,
        "checkpoint.every=0",
        "eval.enabled=false",
        "reward=custom",
        "reward.function._target_=varied.varied",
    ]


def start_of(folder: Path) -> dict[str, torch.Tensor]:
    """The weights that runs in this folder start from."""
    (model,) = (folder / ".rlscale" / "models").iterdir()
    return load_file(model / "model.safetensors")


def same(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> bool:
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def check(run_folder: Path, start: dict[str, torch.Tensor], *, twice: bool, warmup: int = 0) -> list[dict[str, Any]]:
    """What holds for two iterations of any algorithm, after `warmup` ones of its critic alone."""
    made, lines = summary(run_folder), metrics(run_folder)
    steps, epochs, trained = (4, 2, lines[warmup:]) if twice else (1, 1, lines[warmup:])
    assert [line["iteration"] for line in lines] == list(range(1, warmup + 3))
    assert [line["weight_version"] for line in lines] == list(range(1, warmup + 3))
    for line in trained:
        assert math.isfinite(line["loss"])
        assert line["grad_norm"] > 0
        assert (line["steps"], line["skipped_steps"]) == (steps, 0)
        assert line["tokens"] == pytest.approx(epochs * line["samples"] * line["response_length"])
    for line in lines:
        assert (line["groups"], line["samples"]) == (GROUPS, SAMPLES)
    assert (made["status"], made["iterations"], made["steps"]) == ("finished", warmup + 2, 2 * steps)
    assert (made["samples_failed"], made["steps_skipped"]) == (0, 0)
    assert made["tokens_trained"] == sum(line["tokens"] for line in trained)
    assert made["tokens_generated"] >= sum(line["samples"] * line["response_length"] for line in lines)
    assert abs(made["ppo_kl_first_step"]) <= 1e-8
    assert 0 < made["logprob_diff_max"] < 1e-4
    final = load_file(run_folder / "hf" / "model.safetensors")
    assert all(bool(torch.isfinite(weight).all()) for weight in final.values())
    assert final.keys() == start.keys()
    assert not same(final, start)
    check_exported(run_folder / "hf")
    return lines


def test_every_shipped_algorithm_is_run():
    shipped = {file.stem for file in (conf_dir() / "algo").glob("*.yaml")}
    assert shipped == {*ONE_STEP, *MANY_STEPS, *ELSEWHERE, "ppo", "opd"}


@pytest.mark.parametrize(("names", "given"), [(ONE_STEP, ()), (MANY_STEPS, TWICE)], ids=["one_step", "many_steps"])
def test_algorithms_train_and_count(
    learning, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, names: tuple[str, ...], given: tuple[str, ...]
):
    monkeypatch.setenv("COLUMNS", "240")  # so that the table wraps no line
    ended = run(tmp_path, "-m", *learning, *given, f"algo={','.join(names)}", timeout=300)
    assert ended.code == 0, ended.text
    (record,) = tmp_path.glob("outputs/arithmetic/*-sweep/sweep.json")
    runs = json.loads(record.read_text())["runs"]
    assert [entry["overrides"] for entry in runs] == [[f"algo={name}"] for name in names]
    table = ended.text.splitlines()[-len(names) - 3 :]
    for entry, name in zip(runs, names, strict=True):
        check(tmp_path / entry["output"], start_of(tmp_path), twice=given is TWICE)
        used = yaml.safe_load((tmp_path / entry["output"] / "resolved.yaml").read_text())
        assert used["algo"]["name"] == name
        (row,) = [line for line in table if entry["output"] in line]
        assert row.split()[1:5:2] == [f"algo={name}", "finished"], row


def test_distillation_asks_its_teacher(learning, tmp_path: Path):
    values = yaml.safe_load(MODEL_FILE.read_text())
    create = dataclasses.replace(CreateModelConfig(**values["create"]), seed=1)
    teacher = ensure_model_folder(ModelConfig(name="teacher", create=create), tmp_path / "teacher")
    ended = run(tmp_path, *learning, "algo=opd", f"teacher.path={teacher}")
    assert ended.code == 0, ended.text
    lines = check(only_run(tmp_path), start_of(tmp_path), twice=False)
    for line in lines:
        assert 0 < line["seconds_teacher_logprobs"] < line["seconds_train"]
        assert line["teacher_kl"] > 0


def test_a_critic_is_warmed_up_trained_resumed_and_exported(learning, ready: list[str], tmp_path: Path):
    """Cut back to its second checkpoint and continued, the run ends with the same bits in both models."""
    given = [
        *learning,
        *TWICE,
        "algo=ppo",
        "critic.warmup_iterations=1",
        "run.iterations=3",
        "checkpoint.every=1",
        "checkpoint.keep=3",
    ]
    ended = run(tmp_path, *given)
    assert ended.code == 0, ended.text
    whole = only_run(tmp_path)
    lines = check(whole, start_of(tmp_path), twice=True, warmup=1)
    assert "loss" not in lines[0]
    for line in lines:
        assert math.isfinite(line["critic_loss"])
        assert line["critic_grad_norm"] > 0
        assert line["explained_variance"] <= 1
        assert 0 < line["seconds_values"] < line["seconds_train"]
    assert lines[0]["explained_variance"] == pytest.approx(0, abs=1e-6)  # the head starts at zero
    critic = load_file(whole / "hf_critic" / "model.safetensors")
    check_exported(whole / "hf_critic", critic=True)

    cut = tmp_path / "cut"
    shutil.copytree(whole, cut, ignore=shutil.ignore_patterns("iteration_000003", "hf", "hf_critic", ".lock"))
    (cut / "run.json").write_text((cut / "run.json").read_text().replace('"finished"', '"unfinished"'))
    resumed = run(tmp_path, *given, f"run.output={cut}")
    assert resumed.code == 0, resumed.text
    assert "continuing from iteration 2" in resumed.text
    assert [line["reward"] for line in metrics(cut)] == [line["reward"] for line in lines]
    assert same(load_file(cut / "hf" / "model.safetensors"), load_file(whole / "hf" / "model.safetensors"))
    assert same(load_file(cut / "hf_critic" / "model.safetensors"), critic)

    exported = run(tmp_path, "export", f"run.output={whole}", f"to={tmp_path / 'critic'}", "model=critic", *ready)
    assert exported.code == 0, exported.text
    assert same(load_file(tmp_path / "critic" / "model.safetensors"), critic)

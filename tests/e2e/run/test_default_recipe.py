"""The default recipe, shortened, from the command to the last file; then again, from what it left."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from rlscale.run.processes.forks import Forks, write_forks
from tests.e2e.run.command import PROBE, metrics, only_run, run, summary
from tests.e2e.run.exported import check_exported

pytestmark = pytest.mark.timeout(300)


def test_it_ends_with_status_accuracies_time_and_folder(finished):
    folder, ended = finished
    assert ended.code == 0, ended.text
    logs = [path.read_text() for path in folder.glob("outputs/*/*/logs/*.log")]
    assert logs
    assert not any("not forked" in log for log in logs)
    last = ended.text.strip().splitlines()[-1]
    made = summary(only_run(folder))
    assert re.match(r"finished: all \d+ iterations  accuracy before ", last)
    assert f"before {made['eval_before']:.3f}, after {made['eval_after']:.3f}" in last
    assert last.endswith(str(only_run(folder)))
    assert "Traceback" not in ended.text


def test_the_missing_warm_start_is_run_first_and_said(finished):
    folder, ended = finished
    assert "warm start: no result of recipe=stage" in ended.text
    (stage,) = (folder / "outputs" / "stage").glob("stage-*")
    assert summary(stage)["iterations"] == 60
    losses = [line["loss"] for line in metrics(stage)]
    assert sum(losses[-5:]) < sum(losses[:5])


def test_the_first_step_is_on_policy(finished):
    made = summary(only_run(finished[0]))
    assert abs(made["ppo_kl_first_step"]) <= 1e-8
    assert 0 < made["logprob_diff_max"] < 1e-4
    assert made["canary_diff_max"] < 1e-4
    first = metrics(only_run(finished[0]))[0]
    assert first["ratio_max_first_step"] == 1.0


def test_the_seconds_of_the_loop_add_up(finished):
    made = summary(only_run(finished[0]))
    parts = sum(made[f"{name}_seconds"] for name in ("generate", "train", "sync", "other"))
    assert parts == pytest.approx(made["loop_seconds"], abs=0.01)
    assert made["startup_seconds"] + made["loop_seconds"] <= made["wall_seconds"] + 0.01


def test_the_counters_add_up(finished):
    folder = only_run(finished[0])
    lines, made = metrics(folder), summary(folder)
    assert [line["iteration"] for line in lines] == [1, 2, 3]
    assert [line["weight_version"] for line in lines] == [1, 2, 3]
    assert made["tokens_generated"] == made["tokens_trained"] == sum(line["tokens"] for line in lines)
    assert all(line["samples"] == 16 for line in lines)
    assert made["samples_failed"] == 0


def test_the_folder_holds_what_the_readme_says(finished):
    folder = only_run(finished[0])
    for name in ("recipe.yaml", "resolved.yaml", "metrics.jsonl", "engine_loads.jsonl", "summary.json", "report.html"):
        assert (folder / name).stat().st_size > 0, name
    assert {path.name for path in (folder / "logs").iterdir()} >= {"rank-0.log", "rollout.log", "router.log"}
    assert [path.name for path in sorted((folder / "checkpoints").iterdir())] == [
        "iteration_000002",
        "iteration_000003",
    ]
    page = (folder / "report.html").read_text()
    assert "<svg" in page
    assert "src=" not in page


def test_what_is_exported_is_what_the_run_and_its_warm_start_used(finished):
    check_exported(only_run(finished[0]) / "hf")
    (stage,) = (finished[0] / "outputs" / "stage").glob("stage-*")
    check_exported(stage / "hf")


def test_the_exported_model_gives_the_trained_logits(finished):
    """What the engine said right after the run, with the weights that the trainer sent last, transformers says too."""
    folder, ended = finished
    model = AutoModelForCausalLM.from_pretrained(only_run(folder) / "hf", dtype=torch.float32).eval()
    with torch.no_grad():
        logprobs = model(torch.tensor([PROBE])).logits[0].log_softmax(-1)
    expected = [float(logprobs[at - 1, token]) for at, token in enumerate(PROBE) if at]
    assert ended.engine_logprobs == pytest.approx(expected, abs=1e-4)


def test_its_recipe_runs_again_elsewhere_to_the_same_bits(finished, on_shared_engine, tmp_path: Path):
    """Another folder, the same seed: the same samples and bit for bit the same weights.

    The first run's processes were forked, on a Ray that it joined; this one has a Ray of its own, and the fork server
    that its processes would be forked from has ended, and its folder with it.
    """
    first = only_run(finished[0])
    shutil.copy(first / "recipe.yaml", tmp_path / "shared-with-me.yaml")
    (tmp_path / "elsewhere").mkdir()
    write_forks(Forks(workers=str(tmp_path / "ended" / "socket"), scratch=str(tmp_path)), tmp_path / "warm.json")
    given = [*on_shared_engine, "run.scratch=scratch", f"cluster.warm={tmp_path / 'warm.json'}"]
    again = run(tmp_path / "elsewhere", "recipe=../shared-with-me.yaml", *given)
    assert again.code == 0, again.text
    second = only_run(tmp_path / "elsewhere")
    for log in ("rank-0.log", "rollout.log"):
        assert "not forked, so it imports everything itself: " in (second / "logs" / log).read_text()
    assert (first / "samples.jsonl").read_text() == (second / "samples.jsonl").read_text()
    ours, theirs = load_file(first / "hf" / "model.safetensors"), load_file(second / "hf" / "model.safetensors")
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    rewards = [[line["reward"] for line in metrics(folder)] for folder in (first, second)]
    assert rewards[0] == rewards[1]


def test_export_writes_the_checkpoint_as_a_hugging_face_folder(finished, ready, tmp_path: Path):
    folder = only_run(finished[0])
    ended = run(finished[0], "export", f"run.output={folder}", f"to={tmp_path / 'model'}", *ready)
    assert ended.code == 0, ended.text
    names = {path.name for path in (folder / "hf").iterdir()}
    assert {path.name for path in (tmp_path / "model").iterdir()} == names
    for name in names - {"model.safetensors"}:
        assert (tmp_path / "model" / name).read_bytes() == (folder / "hf" / name).read_bytes(), name
    final = load_file(folder / "hf" / "model.safetensors")
    exported = load_file(tmp_path / "model" / "model.safetensors")
    assert all(torch.equal(final[name], exported[name]) for name in final)


def test_eval_measures_a_checkpoint_as_the_run_did_and_writes_every_sample(finished, ready, tmp_path: Path):
    """By engines of its own that read the exported weights: the same prompts, seeds and answers."""
    folder = only_run(finished[0])
    given = [f"run.output={folder}", "iteration=3", f"to={tmp_path / 'measured'}", "rollout.engine_key_file=null"]
    ended = run(finished[0], "eval", *given, *ready)
    assert ended.code == 0, ended.text
    accuracy = summary(folder)["eval_after"]
    assert f"pass@1 {accuracy:.4f}" in ended.text.splitlines()
    written = json.loads((tmp_path / "measured" / "result.json").read_text())
    assert written["pass_at_k"]["1"] == accuracy
    samples = [json.loads(line) for line in (tmp_path / "measured" / "samples.jsonl").read_text().splitlines()]
    assert len(samples) == 16
    assert sum(sample["solved"] for sample in samples) == pytest.approx(16 * accuracy)


def test_a_finished_folder_is_not_run_over(finished, shared):
    folder = only_run(finished[0])
    before = (folder / "summary.json").read_text()
    ended = run(finished[0], "recipe=short.yaml", *shared, f"run.output={folder}")
    assert ended.code == 2
    assert "finished run" in ended.text
    assert (folder / "summary.json").read_text() == before
    json.loads(before)

"""A recipe for machines of 8 GPUs, on this one."""

from __future__ import annotations

import json
from pathlib import Path

import yaml

from tests.e2e.run.command import metrics, run, summary


def test_a_recipe_for_eight_gpus_runs_here_with_a_small_model_of_its_family(tmp_path: Path, ready: list[str]) -> None:
    rows = [json.dumps({"problem": f"What is {n} + {n}?", "answer": str(2 * n)}) for n in range(16)]
    (tmp_path / "train.jsonl").write_text("\n".join(rows[:8]))
    (tmp_path / "test.jsonl").write_text("\n".join(rows[8:]))
    data = ["data.path=train.jsonl", "eval.data.path=test.jsonl"]
    short = ["run.iterations=1", "eval.enabled=false", "checkpoint.every=0", "run.output=run"]
    ended = run(tmp_path, "recipe=qwen3_30b_math", *data, "debug=tiny_model", *short, *ready)
    assert ended.code == 0, ended.text
    used = yaml.safe_load((tmp_path / "run" / "resolved.yaml").read_text())
    assert used["model"]["create"]["architecture"]["model_type"] == "qwen3_moe"
    assert used["algo"]["name"] == "gspo"
    (only,) = metrics(tmp_path / "run")
    assert only["response_length"] > 0
    assert 0 < summary(tmp_path / "run")["logprob_diff_max"] < 1e-4

"""From a laptop to a cluster: what a user asks before renting 8 GPUs, one command after the other.

That the same recipe then runs here with `debug=tiny_model`, and is looked at in a browser, is in
tests/e2e/run/test_debug_option.py.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from rlscale.cli import main

RECIPE = ("recipe=qwen3_30b_math", "data.path=train.jsonl", "eval.data.path=test.jsonl")


def test_a_recipe_for_eight_gpus_is_planned_explained_examined_and_written_down_on_a_laptop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    for name, number in (("train.jsonl", 5), ("test.jsonl", 6)):
        Path(name).write_text(json.dumps({"problem": f"What is 2 + {number}?", "answer": str(2 + number)}) + "\n")

    def asked(*words: str) -> tuple[int, str]:
        code = main([*words])
        return code, capsys.readouterr().out

    code, planned = asked("plan", *RECIPE)
    assert code == 0
    assert "30.5B parameters" in planned
    code, planned = asked("plan", *RECIPE, "cluster.gpu_memory_gb=24")
    assert code == 1
    assert "DOES NOT FIT" in planned
    code, solved = asked("plan", *RECIPE, "cluster.gpu_memory_gb=40", "--solve")
    lines = solved.splitlines()
    best = lines[lines.index(next(line for line in lines if "the best that fit" in line)) + 2].split()
    code, planned = asked("plan", *RECIPE, "cluster.gpu_memory_gb=40", *best)
    assert (code, "DOES NOT FIT" in planned) == (0, False), best
    _, explained = asked("explain", "rollout.max_response_tokens", *RECIPE)
    assert "qwen3_30b_math.yaml" in explained
    code, examined = asked("doctor", *RECIPE)
    assert code == 1
    assert "problem  devices: 0 GPUs, and cluster.gpus_per_node=8" in examined
    code, written = asked(*RECIPE, "--dry-run", "--slurm", "run.output=out")
    assert code == 0
    assert "nothing was started" in written
    processes = yaml.safe_load(Path("out/dry_run/processes.yaml").read_text())["processes"]
    assert sum(one["name"].startswith("rank ") for one in processes) == 8
    assert Path("out/dry_run/job.sbatch").is_file()

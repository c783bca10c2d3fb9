"""The example of a job of one's own: the lines of its README, shortened, from a copy of the folder elsewhere."""

from __future__ import annotations

import json
import re
import secrets
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from rlscale.config.schema.cluster_config import Device
from rlscale.serve.server_spec import ServerSpec
from rlscale.serve.supervisor import Supervisor
from tests.e2e.run.command import Started, run, summary

EXAMPLE = Path(__file__).parents[3] / "examples" / "thinking"

SHORTER = (
    "rollout.groups_per_iteration=4",
    "rollout.samples_per_group=2",
    "run.iterations=8",
    "run.report_samples_every=1",
    "checkpoint.every=1",
    "eval.prompts=4",
    "eval.every=0",
    "run.progress=plain",
)


@dataclass(frozen=True)
class Job:
    """A copy of the example, prepared, and an engine with its model that all commands share."""

    folder: Path
    lines: dict[str, list[str]]
    """The README's commands by their first word after `rlscale`, without `python -m rlscale`."""
    engine: list[str]
    ready: list[str]
    """By which a command is forked, and joins the session's Ray."""

    def line(self, first: str, *more: str) -> list[str]:
        """The README's line that begins so, with what makes it short; `more` replaces some of that."""
        replaced = {word.partition("=")[0] for word in more}
        given = (*SHORTER, *self.engine, *self.ready)
        return [*self.lines[first], *(word for word in given if word.partition("=")[0] not in replaced), *more]


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory, ready: list[str], fork_server: str) -> Iterator[Job]:
    folder = tmp_path_factory.mktemp("elsewhere") / "my job"
    shutil.copytree(EXAMPLE, folder, ignore=shutil.ignore_patterns("made", "runs", "outputs"))
    stage = folder / "sft.yaml"
    stage.write_text(stage.read_text().replace("iterations: 300", "iterations: 4"))
    commands = [
        line
        for block in re.findall(r"```sh\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
        for line in block.splitlines()
    ]
    assert commands[0] == "python prepare.py"
    subprocess.run([sys.executable, "prepare.py"], cwd=folder, check=True, capture_output=True, timeout=120)
    words = [shlex.split(line.removeprefix("python -m rlscale ")) for line in commands[1:]]
    key = secrets.token_hex(16)
    (folder / "engine.key").write_text(key)
    supervisor = Supervisor(folder / "logs", folder / "scratch", key, fork_server=fork_server)
    try:
        url = supervisor.start_engine(ServerSpec("shared", str(folder / "made" / "model"), Device.cpu))
        # The options of engines that the run would start itself go.
        engine = [f"rollout.engine_urls=[{url}]", "rollout.engine_key_file=engine.key", "~rollout.sglang"]
        yield Job(folder, {line[0]: line for line in words}, engine, ready)
    finally:
        supervisor.stop()


@pytest.mark.timeout(900)  # nine commands, seven of them runs
def test_the_job_is_checked_run_killed_continued_swept_and_exported(job: Job) -> None:
    checked = run(job.folder, *job.lines["check"], job.ready[0])
    assert checked.code == 0, checked.text
    assert "no problems found" in checked.text

    # With a Ray of its own, so that nothing of it is left when the next one begins.
    with Started(job.folder, *job.line("recipe=grpo.yaml", "cluster.ray_address=null")) as first:
        first.wait_for("iteration 1/8")
        while not list((job.folder / "runs" / "first" / "checkpoints").glob("iteration_*/manifest.json")):
            assert first.alive()
            time.sleep(0.05)
        first.signal(signal.SIGKILL)
        first.seconds_until_gone(60.0)
    ended = run(job.folder, *job.line("recipe=grpo.yaml"))
    assert ended.code == 0, ended.text
    assert "continuing from iteration" in ended.text
    folder = job.folder / "runs" / "first"
    assert summary(folder)["status"] == "finished"
    assert summary(folder)["resumed"] == 1
    assert list(folder.glob("wandb/offline-run-*"))
    samples = [json.loads(line) for line in (folder / "samples.jsonl").read_text().split("\n") if line]
    assert {sample["iteration"] for sample in samples if sample["phase"] == "training"} == set(range(1, 9))
    assert {sample["phase"] for sample in samples} == {"before", "training", "after"}
    assert all(sample["prompt"].startswith("<|user|>") and isinstance(sample["label"], int) for sample in samples)

    swept = run(job.folder, *job.line("-m", "run.iterations=1", "eval.enabled=false", "tracker=none"))
    assert swept.code == 0, swept.text
    runs = json.loads((job.folder / "runs" / "sweep" / "sweep.json").read_text())["runs"]
    assert [(r["overrides"], r["status"]) for r in runs] == [
        (["optim.lr=0.0003"], "finished"),
        (["optim.lr=0.001"], "finished"),
    ]

    exported = run(job.folder, *job.lines["export"], *job.ready)
    assert exported.code == 0, exported.text
    assert generated_by_transformers(job.folder / "thinker")

    measured = run(job.folder, *job.lines["eval"], *job.ready, "eval.prompts=4")
    assert measured.code == 0, measured.text
    result = json.loads((job.folder / "runs" / "measured" / "result.json").read_text())
    assert (result["prompts"], result["samples"], set(result["pass_at_k"])) == (4, 32, {"1", "8"})


def generated_by_transformers(folder: Path) -> str:
    """What plain transformers makes of an exported folder: its template, its tokenizer, its weights."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    words, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder)
    prompt = words.apply_chat_template(
        [{"role": "user", "content": "What is 2 plus 3?"}], add_generation_prompt=True, return_tensors="pt"
    )
    answer = model.generate(prompt["input_ids"], max_new_tokens=4, do_sample=False)
    text: str = words.decode(answer[0])
    assert text.startswith("<|user|>What is 2 plus 3?<|end|><|assistant|>")
    return text

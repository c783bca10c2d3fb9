"""What is written of an iteration, whatever metrics it has."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rlscale.config.composition.compose import compose
from rlscale.data.sample import Group, Prompt, Sample
from rlscale.observe.load_log import read_engine_loads
from rlscale.observe.metrics import MetricsLog, read_metrics
from rlscale.observe.samples import read_samples
from rlscale.observe.summary import Summary
from rlscale.observe.timeline import DRIVER, PASSES, read_timeline
from rlscale.rollout.engines.engine_loads import EngineLoad
from rlscale.rollout.length_ratio import LENGTH_RATIO
from rlscale.rollout.rollout_stats import RolloutStats
from rlscale.run.disk.checkpoint import Progress
from rlscale.run.disk.records import Records
from rlscale.run.disk.run_folder import RunFolder
from rlscale.run.disk.stages import TEACHER, WARM_START


def records(tmp_path: Path, *overrides: str) -> Any:
    made = Records(compose(None, ["run.progress=plain", *overrides]), RunFolder(tmp_path), started=0.0)
    made.begin_loop(Progress())
    return made


def test_an_iteration_of_the_critic_alone_is_written_and_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = records(tmp_path, "algo=ppo")
    made.iteration(Progress(iteration=1), {"critic_loss": 0.25, "explained_variance": -0.5, "reward": 0.5})
    made.iteration(Progress(iteration=2, steps=1), {"critic_loss": 0.2, "loss": 0.1, "ppo_kl_first_step": 1e-9})
    made.iteration(Progress(iteration=3, steps=2), {"critic_loss": 0.2, "loss": 0.1, "ppo_kl_first_step": 0.5})
    made.finish("finished", Progress(iteration=3, steps=2), None, (0, 0))
    assert [row.get("loss") for row in read_metrics(tmp_path)] == [None, 0.1, 0.1]
    summary = Summary.read(tmp_path)
    assert summary is not None
    assert summary.ppo_kl_first_step == 1e-9
    assert (summary.critic_loss, summary.explained_variance) == (0.2, -0.5)
    shown = capsys.readouterr().out
    assert "critic loss 0.25" in shown
    assert "expl. variance -0.5" in shown
    assert "explained variance" in (tmp_path / "report.html").read_text()


def test_passes_are_part_of_the_training_time_and_seconds_of_their_own(tmp_path: Path) -> None:
    made = records(tmp_path)
    with made.span("train"), made.model_pass("values"):
        pass
    made.iteration(Progress(iteration=1), {})
    made.iteration(Progress(iteration=2), {})
    first, second = read_metrics(tmp_path)
    assert 0 <= first["seconds_values"] <= first["seconds_train"]
    assert "seconds_values" not in second
    made.finish("finished", Progress(iteration=2), None, (0, 0))
    assert {(span.name, span.lane) for span in read_timeline(tmp_path)} == {("train", DRIVER), ("values", PASSES)}


def test_skipped_steps_and_dropped_groups_are_said_and_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = records(tmp_path)
    made.generation(1, RolloutStats({"groups_dropped_equal": 3}, []))
    metrics = {"skipped_steps": 1.0, "steps": 2.0, "critic_skipped_steps": 2.0, "critic_steps": 2.0}
    made.skipped_steps(1, metrics)
    made.iteration(Progress(iteration=1), metrics)
    state = Progress(iteration=1)
    made.update_counters(state)
    assert state.counters["steps_skipped"] == 3.0
    made.finish("finished", state, None, (0, 0))
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert (summary["steps_skipped"], summary["groups_dropped"]) == (3, 3)
    assert read_metrics(tmp_path)[0]["groups_dropped_equal"] == 3
    assert "iteration 1: 1 of 2 steps skipped" in capsys.readouterr().out


def test_a_length_ratio_outside_its_bounds_is_said_once_and_once_when_it_is_over(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = records(tmp_path)
    said = []
    for ratio in (0.9, 0.84, 0.8, 1.1, 1.2, 1.0, None):
        lengths = {"trained_length": 42.0, "started_length": 50.0}
        made.generation(1, RolloutStats({}, [], measures={} if ratio is None else {LENGTH_RATIO: ratio, **lengths}))
        said.append(capsys.readouterr().out.strip().partition("] ")[2])
    assert said == [
        "",
        "warning: samples that are trained on are 0.84 times as long as those that were started (42 and 50 tokens), "
        "which is outside 0.9 to 1.1: see length_ratio in docs/rollout.md",
        "",
        "length_ratio is 1.10 again",
        "warning: samples that are trained on are 1.20 times as long as those that were started (42 and 50 tokens), "
        "which is outside 0.9 to 1.1: see length_ratio in docs/rollout.md",
        "length_ratio is 1.00 again",
        "",
    ]


def test_the_loads_of_the_engines_are_written_down_with_their_iteration_and_drawn(tmp_path: Path) -> None:
    made = records(tmp_path)
    made.generation(1, RolloutStats({}, [], loads={"http://a:1": EngineLoad(2.0, 1.0, 0.25)}))
    made.iteration(Progress(iteration=1), {})
    made.finish("finished", Progress(iteration=1), None, (0, 0))
    (row,) = read_engine_loads(tmp_path)
    assert (row["iteration"], row["engines"]) == (1, {"http://a:1": {"running": 2.0, "waiting": 1.0, "usage": 0.25}})
    assert "Cache in use in each engine" in (tmp_path / "report.html").read_text()


def test_the_stages_have_their_seconds_each(tmp_path: Path) -> None:
    made = records(tmp_path)
    for stage in (WARM_START, TEACHER):
        made.suspend()
        made.unsuspend(stage)
    assert made._summary.warm_start_seconds > 0
    assert made._summary.teacher_seconds > 0


def test_samples_are_shown_while_training_goes_on_and_the_shortest_do_not_come_first(tmp_path: Path) -> None:
    made = records(tmp_path, "run.report_samples=2", "run.report_samples_every=4", "eval.success_reward=0.5")
    by_length = [group(index, reward=index / 10) for index in (3, 1, 7, 5)]
    for iteration in range(1, 9):
        made.rollouts(iteration, by_length)
    made.finish("finished", Progress(iteration=8), None, (0, 0))
    samples = read_samples(tmp_path)
    assert [(s.phase, s.iteration, s.index) for s in samples] == [
        ("training", iteration, index) for iteration in (1, 4, 8) for index in (1, 5)
    ]
    assert [s.solved for s in samples[:2]] == [False, True]
    assert "<option>iteration 4</option>" in (tmp_path / "report.html").read_text()


@pytest.mark.parametrize("off", ["run.report_samples=0", "run.report_samples_every=0"])
def test_samples_of_training_can_be_left_out(tmp_path: Path, off: str) -> None:
    made = records(tmp_path, off)
    made.rollouts(1, [group(1, reward=1.0)])
    made.finish("finished", Progress(iteration=1), None, (0, 0))
    assert read_samples(tmp_path) == []


def group(index: int, reward: float) -> Group:
    prompt = Prompt(index, str(index), np.array([1], np.int32), "2", text="1+1=")
    sample = Sample.from_response(prompt, 0, np.array([2], np.int32), None, 0, text="2")
    sample.reward = reward
    return Group(prompt, [sample])


def test_what_was_measured_of_an_iteration_is_known_by_set_and_metric(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path)
    log.log(0, {"eval/pass@1": 0.25, "eval/pass@4": 0.5, "eval/reward": 0.1})
    log.log(2, {"eval/pass@1": 0.75, "loss": 0.1})
    log.log(0, {"eval/a/b/pass@1": 0.125, "eval/a/b/truncated": 0.0})
    log.close()
    made = Records(compose(None), RunFolder(tmp_path), started=0.0)
    assert made.evaluated(0) == {"": {"pass@1": 0.25, "pass@4": 0.5}, "a/b": {"pass@1": 0.125}}
    assert made.evaluated(1) == {}


@pytest.mark.parametrize(
    ("status", "iteration", "ended"),
    [
        ("finished", 30, "all 30 iterations"),
        ("finished", 12, "early, after 12 of 30 iterations: mean loss of the last 2 0.15 < run.stop_loss=0.2"),
        ("stopped", 12, "after 12 of 30 iterations; the same command continues"),
        ("failed", 12, "after 12 of 30 iterations"),
    ],
)
def test_why_a_run_ended_is_printed_and_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], status: str, iteration: int, ended: str
) -> None:
    config = compose("arithmetic_sft", ["run.iterations=30", "run.stop_loss=0.2"])
    made = Records(config, RunFolder(tmp_path), 0.0)
    made.finish(status, Progress(iteration=iteration, recent_losses=[0.1, 0.2]), None, (0, 0))
    assert json.loads((tmp_path / "summary.json").read_text())["ended"] == ended
    assert capsys.readouterr().out.splitlines()[-1].startswith(f"{status}: {ended}  ")


def test_samples_that_read_the_same_again_are_said_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = records(tmp_path)
    made.begin_loop(Progress())
    for iteration, read in enumerate((1.9, 2.5, 3.0), start=1):
        made.iteration(Progress(iteration=iteration), {"segment_duplication": read, "segments": 4.0})
    said = [line for line in capsys.readouterr().out.splitlines() if "warning" in line]
    assert len(said) == 1
    assert "samples read 2.5 times the tokens that differ in them, in 4.0 segments each" in said[0]


def test_trackers_are_told_the_variable_and_not_the_secret_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: dict[str, Any] = {}
    monkeypatch.setenv("JUDGE_TOKEN", "verysecret1234")
    monkeypatch.setattr("rlscale.run.disk.records.build_tracker", lambda *given, **named: told.update(named))
    records(tmp_path, "agent.arguments={token: '${oc.env:JUDGE_TOKEN}'}")
    assert told["run_config"]["agent"]["arguments"] == {"token": "${oc.env:JUDGE_TOKEN}"}
    assert "verysecret1234" not in json.dumps(told["run_config"])

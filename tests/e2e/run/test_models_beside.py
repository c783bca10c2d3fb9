"""A run with a judge that never changes and a model that follows the policy, each on an engine behind its router."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path

import psutil
from shared_server import tiny_model

from tests.e2e.run.command import Started, metrics, only_run, run, summary


def processes_that_log_to(folder: Path) -> list[psutil.Process]:
    """Those of this machine that have a file in the folder open."""
    found = []
    for process in psutil.process_iter():
        try:
            if any(Path(file.path).is_relative_to(folder) for file in process.open_files()):
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return found


def kill(logs: Path, named: str) -> None:
    """With -9 the server that logs there and has that in its name; not its guard, which ends what is left of it."""
    found = [one for one in processes_that_log_to(logs) if named in " ".join(one.cmdline())]
    assert found
    for process in found:
        if "guard" not in " ".join(process.cmdline()):
            process.kill()


def test_models_beside_the_policy_score_it_come_back_when_killed_and_end_with_the_run(short, tmp_path: Path):
    """The judge's engine and the mirror's router are killed with -9. No reward fails, and the mirror always has the
    policy's weights."""
    shutil.copy(Path(__file__).with_name("own_judges.py"), tmp_path)
    judge = tiny_model(tmp_path / "judge", num_hidden_layers=2)
    given = [
        *("eval.enabled=false", "run.iterations=8", "reward.timeout_s=100"),
        *("reward=custom", "reward.function._target_=own_judges.SaidOf"),
        *("reward.function.judge=judge", "reward.function.mirror=mirror"),
        *(f"rollout.models.judge.path={judge}", "rollout.models.mirror.follows_policy=true"),
    ]
    with Started(tmp_path, *short, *given) as started:
        started.wait_for("iteration 1/8")
        logs = only_run(tmp_path) / "logs" / "models"
        kill(logs / "judge", "engine-0")
        kill(logs / "mirror", "router_main")
        assert started.process.wait(timeout=120) == 0, started.log.read_text()
        assert "judge: engine-0 died; restarting it" in started.log.read_text()
        assert "judge: engine-0 is back with its weights" in started.log.read_text()
        assert "mirror: router died; restarting it" in started.log.read_text()
        assert "mirror: router is back" in started.log.read_text()
        assert started.seconds_until_gone(15.0) < 15.0
        deadline = time.monotonic() + 15.0
        while left := processes_that_log_to(logs):  # servers forked for this run, and launchers in the session's Ray
            assert time.monotonic() < deadline, left
            time.sleep(0.1)
    lines = metrics(only_run(tmp_path))
    assert [line["reward_part/version"] for line in lines] == list(range(8))
    assert [line["weight_version"] for line in lines] == list(range(1, 9))
    assert len({line["reward"] for line in lines}) > 1
    assert lines[-1]["models/judge/restarts"] == 1
    assert lines[-1]["models/mirror/restarts"] == 1
    assert any(line.get("models/judge/running", -1) >= 0 for line in lines)
    assert lines[0]["models/mirror/canary_diff"] < 1e-3
    assert "models/judge/canary_diff" not in lines[0]
    assert summary(only_run(tmp_path))["samples_failed"] == 0
    assert summary(only_run(tmp_path))["engine_restarts"] == 2
    assert not list((tmp_path / ".rlscale").glob("models-*"))


def test_the_evaluation_of_a_supervised_run_asks_a_judge(shared: list[str], tmp_path: Path) -> None:
    shutil.copy(Path(__file__).with_name("own_judges.py"), tmp_path)
    judge = tiny_model(tmp_path / "judge", num_hidden_layers=2)
    given = [
        *("recipe=arithmetic_sft", "run.iterations=2", "reward.timeout_s=100"),
        *("eval.enabled=true", "data@eval.data=arithmetic_held_out", "eval.prompts=4", "eval.every=0"),
        *("reward=custom", "reward.function._target_=own_judges.SaidOf"),
        *("reward.function.judge=judge", "reward.function.mirror=mirror"),
        *(f"rollout.models.judge.path={judge}", "rollout.models.mirror.follows_policy=true"),
    ]
    ended = run(tmp_path, *given, *shared)
    assert ended.code == 0, ended.text
    assert "engines: 1, 1 for judge, 1 for mirror" in ended.text
    lines = [json.loads(line) for line in (only_run(tmp_path) / "metrics.jsonl").read_text().splitlines()]
    measured = [line for line in lines if "eval/reward" in line]
    assert [line["iteration"] for line in measured] == [0, 2]
    assert all(0 < line["eval/reward"] <= 1 for line in measured)
    synced = next(line for line in lines if "models/mirror/canary_diff" in line)
    assert synced["models/mirror/canary_diff"] < 1e-3

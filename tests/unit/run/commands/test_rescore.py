"""A changed reward over stored rollouts: what it would have changed, and nothing else."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from rlscale.cli import main
from rlscale.config.composition.compose import compose
from rlscale.config.composition.written_recipe import write_recipe
from rlscale.config.errors import UserError
from rlscale.config.schema.rollout_config import Store
from rlscale.data.sample import Group, Prompt, Sample
from rlscale.data.stored.stored_rollouts import RolloutStore
from rlscale.observe import jsonl
from rlscale.run.commands.rescore import Comparison, rescore

REWARD = """
def lenient(response, label, info):
    if response == "raise":
        raise ValueError("cannot tell")
    return 1.0 if response.replace(' ', '') == label else 0.0
"""


def group(index: int, responses: list[str], rewards: list[float], task: list[float] | None = None) -> Group:
    tokens = np.arange(3, dtype=np.int32)
    prompt = Prompt(index, f"{index}+1", tokens, "58", {}, f"{index}+1=")
    samples = []
    for place, (text, reward) in enumerate(zip(responses, rewards, strict=True)):
        sample = Sample.from_response(prompt, place, tokens, None, 0, "stop", text)
        sample.reward = reward
        if task is not None:
            sample.info = {"task_reward": task[place]}
        samples.append(sample)
    return Group(prompt, samples)


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "run.json").write_text(json.dumps({"state": "finished"}))
    write_recipe(compose(None, [f"run.output={folder}"]), folder)
    store = RolloutStore(folder / "rollouts", Store.all, 0, 1.0)
    store.write(1, 0, [group(1, ["58", "5 8", "raise"], [1.0, 0.0, 0.0]), group(2, ["5 8", "5  8"], [0.0, 0.0])])
    store.write(2, 1, [group(3, ["58", "59"], [0.5, -0.5], [1.0, 0.0])])
    (tmp_path / "my_reward.py").write_text(REWARD)
    monkeypatch.chdir(tmp_path)
    return folder


def test_the_runs_own_reward_changes_nothing(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert rescore([f"run.output={run}"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == (
        "all: 7 samples, reward 0.2857 -> 0.2857, 0 higher, 0 lower, 7 the same; groups with a signal 2 -> 2 of 3"
    )


def test_another_reward_is_compared_sample_by_sample(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    changed = ["reward=custom", "reward.function._target_=my_reward.lenient", "reward.workers=0"]
    assert rescore([f"run.output={run}", *changed, "to=both.jsonl"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == (
        "iteration 1: 4 samples, reward 0.2500 -> 1.0000, 3 higher, 0 lower, 1 the same, 1 failed; "
        "groups with a signal 1 -> 0 of 2"
    )
    assert lines[1].startswith("iteration 2: 2 samples, reward 0.5000 -> 0.5000, 0 higher")
    assert lines[2].startswith("all: 6 samples, reward 0.3333 -> 0.8333, 3 higher")
    assert lines[3:] == [
        "  prompt 1+1, label '58', response '5 8': 0 -> 1",
        "  prompt 2+1, label '58', response '5 8': 0 -> 1",
        "  prompt 2+1, label '58', response '5  8': 0 -> 1",
    ]
    records = jsonl.read(Path("both.jsonl"))
    assert [one["after"] for one in records] == [1.0, 1.0, None, 1.0, 1.0, 1.0, 0.0]
    assert records[5]["before"] == 1.0  # before what was added for its length


@pytest.mark.parametrize(
    ("words", "wrong"),
    [
        (["reward=math"], "rescore needs run.output=FOLDER"),
        (["run.output=nowhere"], "run.output=.*nowhere does not contain a run"),
        (["run.output={run}", "optim.lr=1"], "optim.lr=1: rescore changes the reward only"),
        (["run.output={run}", "reward=maths"], "did you mean math"),
        (["run.output={run}", "--fast"], "rescore does not know '--fast'"),
    ],
)
def test_bad_input_is_one_line(run: Path, words: list[str], wrong: str) -> None:
    with pytest.raises(UserError, match=wrong):
        rescore([word.format(run=run) for word in words])


def test_a_run_that_stored_nothing_says_how_to(run: Path) -> None:
    for file in (run / "rollouts").iterdir():
        file.unlink()
    with pytest.raises(UserError, match=r"no rollouts are stored there; a run stores them with rollout.store=all"):
        rescore([f"run.output={run}"])


def test_a_reward_that_always_fails_is_said() -> None:
    comparison = Comparison()
    comparison.add(group(1, ["a", "b"], [0.0, math.nan]), [None, None])
    assert str(comparison) == "the reward failed for all 2 samples"


def strangers(run: Path, *overrides: str) -> None:
    """The run's recipe is written anew, as somebody else may have done it."""
    write_recipe(compose(None, [f"run.output={run}", "reward.workers=0", *overrides]), run)


CODE = ("reward=code", "reward.function.sandbox=none", "reward.function.memory_mb=4000")


def test_programs_of_a_run_are_run_without_a_sandbox_only_where_the_command_line_says_so(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    strangers(run, *CODE)
    store = RolloutStore(run / "rollouts", Store.all, 0, 1.0)
    tokens = np.arange(3, dtype=np.int32)
    prompt = Prompt(9, "9", tokens, ["assert True"], {}, "9=")
    sample = Sample.from_response(prompt, 0, tokens, None, 0, "stop", f"open({str(run / 'ran')!r}, 'w').close()")
    sample.reward = 1.0
    for number in (1, 2):
        store.write(number, 0, [Group(prompt, [sample])])
    assert main(["rescore", f"run.output={run}"]) == 2
    assert capsys.readouterr().err == (
        "error: reward.function.sandbox=none: runs what the policy writes, with your rights; so says "
        f"{run}/recipe.yaml, and not the command line: if you trust it, add reward.function.sandbox=none, or "
        "--trust-run\n"
    )
    assert not (run / "ran").exists()
    for word in ("reward.function.sandbox=none", "--trust-run"):
        assert main(["rescore", f"run.output={run}", word]) == 0
        told = capsys.readouterr()
        assert told.err == "note: reward.function.sandbox=none: runs what the policy writes, with your rights\n"
        assert "all: 2 samples, reward 1.0000 -> 1.0000" in told.out
        (run / "ran").unlink()


def test_a_reward_of_ones_own_is_named_once_more(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    strangers(run, "reward=custom", "reward.function._target_=my_reward.lenient")
    assert main(["rescore", f"run.output={run}"]) == 2
    assert "if you trust it, add reward.function._target_=my_reward.lenient, or --trust-run" in capsys.readouterr().err
    assert main(["rescore", f"run.output={run}", "reward.function._target_=my_reward.lenient"]) == 0
    assert (
        capsys.readouterr().err == f"note: reward.function: runs my_reward.lenient of {run.parent / 'my_reward.py'}\n"
    )


def test_only_what_the_command_line_says_itself_is_its_own(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A mapping is merged into the recipe's, and an option may lie in the run's folder."""
    strangers(run, *CODE)
    assert main(["rescore", f"run.output={run}", "reward.function={memory_mb: 4000}"]) == 2
    assert "reward.function.sandbox=none: runs" in capsys.readouterr().err
    (run / "reward").mkdir()
    (run / "reward" / "mine.yaml").write_text("function: {_target_: my_reward.lenient}\n")
    assert main(["rescore", f"run.output={run}", "reward=mine"]) == 2
    assert "reward.function: runs my_reward.lenient" in capsys.readouterr().err


def test_what_rescore_does_not_run_need_not_be_trusted(run: Path) -> None:
    strangers(run, "agent.command=python agent.py", "buffer._target_=my_reward.lenient")
    assert rescore([f"run.output={run}"]) == 0

"""`python -m rlscale check`: any recipe on any machine, and what this one cannot tell."""

from __future__ import annotations

from pathlib import Path

import pytest

from rlscale.cli import main


def check(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, list[str], list[str]]:
    code = main(["check", *arguments])
    captured = capsys.readouterr()
    return code, captured.out.splitlines(), captured.err.splitlines()


def test_the_default_recipe_is_checked_with_its_warm_start_and_leaves_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = check(capsys)
    assert (code, err) == (0, [])
    assert "  ok: data: arithmetic, train, 9,019 prompts" in out
    assert "  ok: warm_start.recipe=arithmetic_sft: tokenizer and template: tried on the prompts of data" in out
    assert out[-1] == "no problems found"
    assert not (tmp_path / "outputs").exists()
    assert not (tmp_path / ".rlscale" / "models").exists()


def test_a_folder_that_the_run_could_not_use_stands_against_it(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "notes.txt").touch()
    code, _, err = check(capsys, f"run.output={tmp_path}", "warm_start=null")
    assert code == 2
    assert err == [f"error: run.output={tmp_path} is a folder without a run in it; choose an empty or a new folder"]


def test_a_recipe_for_gpus_is_checked_on_a_laptop(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """What the laptop cannot tell is named, and is no error: its GPUs, and the model that is not downloaded."""
    monkeypatch.setattr("rlscale.config.machine.count_gpus", lambda: 0)
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    machine = ["model=qwen3_30b", "parallel=moe_8gpu", "cluster=node8", "rollout.engines=8"]
    code, out, err = check(capsys, *machine, "warm_start=null")
    assert (code, err) == (0, [])
    (gpus,) = [line for line in out if line.startswith("  not checked here: ")]
    assert "cluster.gpus_per_node=8, but this machine has no GPU" in gpus
    assert any("is not downloaded yet: weights, tokenizer and chat template" in line for line in out)
    assert out[-1] == "no problems found, as far as this machine can tell"


def test_what_is_wrong_is_an_error_after_what_is_right(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["reward=custom", "reward.function._target_=no_such_module.fn"]
    code, out, err = check(capsys, *given, f"model.init={tmp_path}")
    assert code == 2
    assert "  ok: data: arithmetic, train, 9,019 prompts" in out
    assert [line.split(": ")[1] for line in err] == [
        f"model.init={tmp_path}",
        "reward.function._target_=no_such_module.fn",
    ]
    assert not any("nothing stands" in line for line in out)


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["-m"], "error: check does not know '-m'; see python -m rlscale check --help"),
        (["recipe=a", "recipe=b"], "error: recipe=b: the recipe is given twice"),
        (["optim.lrr=1"], "error: optim.lrr: unknown key; did you mean optim.lr?"),
    ],
)
def test_a_check_that_cannot_be_read_is_one_line(
    arguments: list[str], line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert check(capsys, *arguments) == (2, [], [line])

"""The command line: options, recipe, errors as lines with exit code 2."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from rlscale.cli import COMMANDS, main, read_arguments


def run(*argv: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, list[str]]:
    code = main(argv)
    captured = capsys.readouterr()
    return code, captured.out, captured.err.splitlines()


def test_cfg_job_prints_what_would_run(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run("optim.lr=0.25", "--cfg", "job", "recipe=arithmetic_sft", capsys=capsys)
    assert (code, err) == (0, [])
    printed = OmegaConf.create(out)
    assert (printed.optim.lr, printed.algo.name, printed.run.recipe) == (0.25, "sft", "arithmetic_sft")
    assert "hydra" not in printed


def test_cfg_prints_one_section_or_value(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--cfg", "job", "--package", "run.seed", "run.seed=7", capsys=capsys)[1] == "7\n"
    assert run("--cfg", "hydra", "--package", "hydra.job_logging.version", capsys=capsys)[1] == "1\n"
    assert OmegaConf.create(run("-c", "job", "-p", "algo.kl", capsys=capsys)[1]).placement == "none"
    assert run("-c", "job", "-p", "algo.lk", capsys=capsys)[0] == 2


def test_cfg_resolves_only_when_asked(capsys: pytest.CaptureFixture[str]) -> None:
    override = "eval.max_response_tokens=${rollout.max_response_tokens}"
    section = ("--cfg", "job", "-p", "eval", override)
    assert "max_response_tokens: ${rollout.max_response_tokens}" in run(*section, capsys=capsys)[1]
    assert "max_response_tokens: $" not in run(*section, "--resolve", capsys=capsys)[1]


@pytest.mark.parametrize(
    ("argv", "line"),
    [
        (["optim.lrr=1"], "error: optim.lrr: unknown key; did you mean optim.lr?"),
        (["--cgf", "job"], "error: --cgf: unknown option; did you mean --cfg?"),
        (["--cfg", "jb"], "error: --cfg/-c: invalid choice: 'jb' (choose from 'job', 'hydra', 'all')"),
        (["exprot"], "error: exprot: unknown command; did you mean export? (overrides are written key=value)"),
        (
            ["--cfg", "job", "export"],
            "error: export: a command stands first, and of the options only --debug, --allow-code and --help go "
            "with it",
        ),
        (["recipe=a.yaml", "recipe=b.yaml"], "error: recipe=b.yaml: the recipe is given twice"),
        (["recipe=/nowhere/x.yaml"], "error: recipe=/nowhere/x.yaml: there is no such file"),
        (
            ["parallel.tensor=3"],
            "error: parallel.tensor=3 does not divide the 4 attention heads of tiny_qwen3; use 1 or 2",
        ),
        (["--package", "run"], "error: --package and --resolve belong to --cfg: python -m rlscale --cfg job ..."),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(argv: list[str], line: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(*argv, capsys=capsys)
    assert (code, out, err) == (2, "", [line])


def test_several_problems_are_a_line_each(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run("optim.lrr=1", "run.iterations=x", capsys=capsys)
    assert (code, len(err)) == (2, 2)


def test_debug_shows_the_traceback_too(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run("optim.lrr=1", "--debug", capsys=capsys)
    assert code == 2
    assert err[0].startswith("Traceback")
    assert err[-1] == "error: optim.lrr: unknown key; did you mean optim.lr?"


@pytest.mark.parametrize("argv", [["--debug", "export"], ["export", "--debug"]])
def test_flags_may_stand_before_or_after_a_command(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(*argv, capsys=capsys)
    assert (code, err[0]) == (2, "Traceback (most recent call last):")
    assert err[-1] == "error: export needs run.output=FOLDER, the folder of a run"


def test_help_before_a_command_is_the_help_of_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run("--help", "export", capsys=capsys)
    assert code == 0
    assert out.startswith("usage: python -m rlscale export run.output=FOLDER [to=FOLDER] [iteration=N]")


def test_help_names_recipes_groups_and_commands(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run("--help", capsys=capsys)
    assert code == 0
    for word in ("arithmetic_sft", "qwen3_30b", "algo/loss", "export", "--multirun", "data@eval.data"):
        assert word in out


def test_the_critic_is_printed_as_following_or_with_its_values(capsys: pytest.CaptureFixture[str]) -> None:
    section = ("algo=ppo", "optim.lr=0.25", "critic.optim.eps=0.5", "--cfg", "job", "-p", "critic.optim")
    assert "lr: ${optim.lr}\n" in run(*section, capsys=capsys)[1]
    resolved = OmegaConf.create(run(*section, "--resolve", capsys=capsys)[1])
    assert (resolved.lr, resolved.eps, resolved.schedule) == (0.25, 0.5, "linear")
    assert run("algo=ppo", "--cfg", "job", "--resolve", capsys=capsys)[0] == 0


def test_recipe_is_taken_out_wherever_it_stands() -> None:
    arguments = read_arguments(["optim.lr=1", "-m", "recipe=x.yaml", "~optim.eps", "--debug"])
    assert (arguments.recipe, arguments.overrides) == ("x.yaml", ["optim.lr=1", "~optim.eps"])
    assert (arguments.options.multirun, arguments.options.debug, arguments.options.cfg) == (True, True, None)


def test_every_command_exists() -> None:
    root = Path(__file__).parents[2]
    for target, _ in COMMANDS.values():
        module, _, function = target.partition(":")
        assert f"def {function}(" in (root / f"{module.replace('.', '/')}.py").read_text()


def test_a_sweep_is_expanded_before_anything_runs(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run("-m", "run.seed=1,2", "optim.lr=0.5", "-c", "job", "-p", "run.seed", capsys=capsys)
    assert code == 0
    assert out.splitlines() == ["# run.seed=1 optim.lr=0.5", "1", "# run.seed=2 optim.lr=0.5", "2"]


def test_a_mistake_in_one_run_of_a_sweep_stops_it_before_the_first(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run("-m", "parallel.tensor=1,3", "run.seed=1,-2", capsys=capsys)
    assert (code, out) == (2, "")
    assert "error: run.seed=-2: must be at least 0" in err
    assert any(
        line.startswith("error: parallel.tensor=3 run.seed=1: parallel.tensor=3 does not divide") for line in err
    )


def test_a_reward_that_one_run_of_a_sweep_lacks_stops_it_before_the_first(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["-m", "reward.function._target_=rlscale.envs.rewards.exact.exact,no_such_module.reward"]) == 2
    assert "no_such_module" in capsys.readouterr().err


def test_two_runs_of_a_sweep_that_are_the_same_run_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run("-m", "run.stop_loss=1,1.0", "recipe=arithmetic_sft", "-c", "job", capsys=capsys)
    assert (code, out) == (2, "")
    assert err == ["error: run.stop_loss=1.0: is the same run as run.stop_loss=1; leave one of them out"]


def test_a_written_recipe_path_runs_as_a_process_from_another_folder(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("defaults: [arithmetic, _self_]\nrun:\n  seed: 11\n")
    command = [sys.executable, "-m", "rlscale", "recipe=mine.yaml", "--cfg", "job", "-p", "run.seed"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout == "11\n"
    assert [file.name for file in tmp_path.iterdir()] == ["mine.yaml"]


def test_a_sweep_lists_whose_code_runs_before_it_is_run_and_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "loud_reward.py").write_text(
        "import sys\nprint('it runs', file=sys.stderr)\nraise RuntimeError('stop')\n"
    )
    (tmp_path / "e.yaml").write_text("defaults: [arithmetic, _self_]\nreward: {function: {_target_: loud_reward.f}}\n")
    assert main(["-m", "recipe=./e.yaml", "run.seed=1,2"]) == 2
    error = capsys.readouterr().err
    note = f"note: reward.function: runs loud_reward.f of {tmp_path / 'loud_reward.py'}\n"
    assert error.count(note) == 1
    assert error.index(note) < error.index("it runs")

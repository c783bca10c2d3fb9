"""`check-hook` on the command line, and the examples of docs/hooks.md, which it must let pass."""

from __future__ import annotations

import re
import sys
from importlib import import_module
from pathlib import Path

import pytest

from rlscale.cli import main
from rlscale.config.errors import UserError
from rlscale.run.commands.check_hook import INPUTS, check_hook, check_reward, kind_of
from rlscale.trainer.hook_contract import Status, failed
from tests.unit.forked import printed_without, typed

DOCS = (Path(__file__).parents[4] / "docs" / "hooks.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", DOCS, flags=re.DOTALL)
EXAMPLES = {
    "score": "above_median",
    "advantage": "surprising_tokens",
    "loss": "leashed",
    "correction": "SegmentWeight",
    "reduction": "root_length",
    "reward": "short_and_right",
}

BROKEN = """
import numpy as np

from rlscale.algo import protocols
from rlscale.algo.protocols import ScoreInputs

def nans(inputs: ScoreInputs):
    return inputs.rewards * np.nan

def other_names(a, b):
    return a

def needs_scale(inputs: "protocols.ScoreInputs", scale):
    return inputs.rewards * scale

def named(text, label, info):
    return 1.0

def vague(response, label, info):
    return "good"

def picky(response, label, info):
    raise ValueError("cannot tell")

async def waits(response, label, info, tokens, prompt):
    return np.float32(len(tokens) + len(prompt))

async def by_place(prompt, responses):
    return [float(place) for place in range(len(responses))]

async def one_less(prompt, responses):
    return [0.0] * (len(responses) - 1)

async def waits_for_text(response, label, info):
    return "good"

def leaves(inputs: ScoreInputs):
    raise SystemExit("no more")

def leaves_too(response, label, info):
    raise SystemExit(3)

class NotCallable:
    pass
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with the files of a user in it; modules that a test imports from it are forgotten after."""
    (tmp_path / "my_hooks.py").write_text("\n\n".join(BLOCKS), encoding="utf-8")
    (tmp_path / "my_broken.py").write_text(BROKEN, encoding="utf-8")
    (tmp_path / "my_exits.py").write_text("raise SystemExit(4)", encoding="utf-8")
    (tmp_path / "my_package").mkdir()
    for name in ("__init__", "part"):
        (tmp_path / "my_package" / f"{name}.py").touch()
    monkeypatch.chdir(tmp_path)
    before, path = set(sys.modules), list(sys.path)
    yield tmp_path
    assert sys.path == path
    for name in set(sys.modules) - before:
        if name.startswith("my_"):
            del sys.modules[name]


def run(*argv: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, list[str], list[str]]:
    code = main(["check-hook", *argv])
    captured = capsys.readouterr()
    return code, captured.out.splitlines(), captured.err.splitlines()


@pytest.mark.parametrize("kind", EXAMPLES)
def test_examples_of_the_docs_keep_the_contract(kind: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(f"my_hooks.{EXAMPLES[kind]}", capsys=capsys)
    assert (code, out[0], err) == (0, f"my_hooks.{EXAMPLES[kind]} as {kind}:", [])
    assert out[-1].endswith(" checks, 0 failed, 0 with a warning")
    assert all(line.startswith("pass") for line in out[1 : -2 if kind in ("advantage", "loss") else -1])


def test_the_rewards_of_the_docs_keep_the_contract(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = (Path(__file__).parents[4] / "docs" / "rewards.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    (folder / "my_rewards.py").write_text("\n\n".join(blocks), encoding="utf-8")
    (folder / "my_group_rewards.py").write_text("\n\n".join(blocks), encoding="utf-8")
    for name, argument in (("short_and_right", "limit=50"), ("thinks_first", "bonus=0.1")):
        code, out, err = run(f"my_rewards.{name}", argument, capsys=capsys)
        assert (code, out[0], err) == (0, f"my_rewards.{name} as reward:", [])
        assert out[-1].endswith(" checks, 0 failed, 0 with a warning")
    code, out, err = run("my_group_rewards.Rare", capsys=capsys)
    assert (code, out[0], err) == (0, "my_group_rewards.Rare as group_reward:", [])
    assert out[-1].endswith(" checks, 0 failed, 0 with a warning")
    import my_rewards

    scores = {
        "<think>3+4</think>7<|im_end|>": 1.2,
        "<think>3+4</think>8<|im_end|>": 0.2,
        "7<|im_end|>": 0.0,
        "<think><think></think>7": 0.0,
        "<think>a</think>8<|e|>7": 0.0,
    }
    assert {raw: my_rewards.thinks_first("", "7", {}, raw) for raw in scores} == scores


def test_the_agent_of_the_docs_keeps_the_contract(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = (Path(__file__).parents[4] / "docs" / "agents.md").read_text(encoding="utf-8")
    _, agents = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    (folder / "my_agents.py").write_text(agents, encoding="utf-8")
    code, out, err = run("my_agents.Twice", capsys=capsys)
    assert (code, out[0], out[-1], err) == (0, "my_agents.Twice as agent:", "4 checks, 0 failed, 0 with a warning", [])


def test_the_test_of_the_docs_passes(folder: Path) -> None:
    names: dict[str, object] = {}
    exec("\n\n".join(BLOCKS), names)
    names["test_my_loss"]()  # type: ignore[operator]


def test_every_kind_has_an_example() -> None:
    assert set(EXAMPLES) == {*INPUTS, "reward"}


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_arguments_reach_the_function(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run("my_broken.needs_scale", "scale=0.5", capsys=capsys)
    assert code == 0
    code, out, _ = run("my_broken.needs_scale", "scale=inf", "kind=score", capsys=capsys)
    assert code == 1
    assert any(line.startswith("fail  finite ") for line in out)


def test_an_async_reward_is_awaited_and_any_number_will_do(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run("my_broken.waits", capsys=capsys)
    assert (code, out[-1]) == (0, "4 checks, 0 failed, 0 with a warning")
    code, out, _ = run("my_broken.waits_for_text", capsys=capsys)
    assert code == 1
    (line,) = [line for line in out if line.startswith("fail  finite ")]
    assert "the reward returned str 'good' of length 4 instead of a finite number for '42'" in line


def test_a_group_reward_gives_one_score_for_each_response_wherever_it_stands(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = run("my_broken.by_place", capsys=capsys)
    assert code == 0
    (line,) = [line for line in out if line.startswith("warn")]
    assert "a score follows the response, not its place; found: [0.0, 1.0], in another order [1.0, 0.0]" in line
    code, out, _ = run("my_broken.one_less", capsys=capsys)
    assert (code, out[-1]) == (1, "2 checks, 1 failed, 0 with a warning")
    assert out[-2].endswith("found: 0 for a group of 1")


def test_a_broken_contract_ends_with_1_and_says_where(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run("my_broken.nans", capsys=capsys)
    assert (code, err) == (1, [])
    (line,) = [line for line in out if line.startswith("fail  finite ")]
    assert "expected: finite numbers; found: nan at 0, " in line
    assert re.fullmatch(r"\d+ checks, [1-9]\d* failed, 0 with a warning", out[-1])


@pytest.mark.parametrize(
    ("argv", "line"),
    [
        ([], "error: check-hook takes one path of a function or class, such as my_module.my_loss"),
        (["a.b", "c.d"], "error: check-hook takes one path of a function or class, not a.b and c.d"),
        (["my_broken.nan"], "error: my_broken.nan: my_broken has no nan; did you mean nans?"),
        (["my_nothing"], "error: my_nothing: no module of that name; is it on PYTHONPATH?"),
        (["my_nothing.nan"], "error: my_nothing.nan: no module of that name; is it on PYTHONPATH?"),
        (["my_hooks.py:leashed"], "error: my_hooks.py:leashed is not a dotted path such as my_module.my_function"),
        (
            ["my_broken"],
            "error: my_broken is a module; name a function or class in it, such as "
            "my_broken.nans or my_broken.other_names or my_broken.needs_scale",
        ),
        (["my_package.part"], "error: my_package.part is a module; name a function or class in it"),
        (["my_exits.fn"], "error: my_exits.fn: importing my_exits failed: SystemExit(4)"),
        (
            ["my_hooks.surprising_tokens", "reads=[old_logprob]"],
            "error: reads: no such column as old_logprob; did you mean old_logprobs?",
        ),
        (
            ["my_broken.other_names"],
            "error: my_broken.other_names: what it is cannot be told from its parameters (a, b); annotate its inputs, "
            "such as `inputs: LossInputs`, or add kind=score|advantage|loss|correction|reduction|reward|group_reward|"
            "filter|loop|environment|source|agent|trainer|service|engine|buffer|transport|tracker",
        ),
        (["my_broken.nans", "kind=scor"], "error: kind=scor: no such kind; did you mean score?"),
        (
            ["my_hooks.leashed", "alpa=1"],
            "error: algo.loss.function.alpa is not an argument of my_hooks.leashed; did you mean "
            "algo.loss.function.alpha?",
        ),
        (
            ["my_broken.NotCallable"],
            "error: my_broken.NotCallable: instances of this class cannot be called; "
            "give it a __call__, or the methods of a component (see docs/components.md)",
        ),
        (
            ["my_broken.needs_scale"],
            "error: algo.score.function: my_broken.needs_scale cannot be called like this: "
            "missing a required argument: 'scale'",
        ),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    argv: list[str], line: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*argv, capsys=capsys) == (2, [], [line])


def test_help_is_the_help_of_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run("--help", capsys=capsys)
    assert (code, out[0]) == (0, "usage: python -m rlscale check-hook path.to.fn [kind=KIND] [argument=value ...]")


def test_a_reward_may_raise_but_not_return_text(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run("my_broken.vague", capsys=capsys)
    assert (code, out[1][:12]) == (1, "fail  finite")
    code, out, _ = run("my_broken.picky", capsys=capsys)
    assert code == 0
    assert "it raised for 7 of 7 responses, as for '42': ValueError: cannot tell" in out[1]


def test_a_reward_that_changes_info_or_its_mind_is_found() -> None:
    scores = iter(range(100))

    def moody(response: str, label: str, info: dict) -> float:
        info["seen"] = True
        return float(next(scores))

    findings = {finding.check: finding for finding in check_reward(moody)}
    assert [finding.check for finding in failed(findings.values())] == ["arguments"]
    assert findings["deterministic"].status is Status.warned


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("rlscale.algo.protocols.Score", "score"),
        ("rlscale.algo.protocols.Loss", "loss"),
        ("rlscale.envs.rewards.exact.ExactAnswer", "reward"),
        ("rlscale.algo.protocols.Reduction", "reduction"),
        ("rlscale.algo.protocols.Advantage", "advantage"),
        ("rlscale.algo.protocols.Correction", "correction"),
    ],
)
def test_the_kind_is_told_from_the_parameters(path: str, kind: str) -> None:
    module, _, name = path.rpartition(".")
    assert kind_of(getattr(import_module(module), name), path) == kind


def test_a_kind_that_cannot_be_called_so_is_an_error(folder: Path) -> None:
    with pytest.raises(UserError, match=r"algo\.loss\.function: my_broken\.named cannot be called like this"):
        check_hook(["my_broken.named", "kind=loss"])


def test_it_runs_as_a_process_in_the_users_folder(folder: Path) -> None:
    done = typed(folder, "check-hook", "my_hooks.leashed", "alpha=0.1")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[0] == "my_hooks.leashed as loss:"


def test_an_advantage_is_told_which_columns_a_run_must_be_asked_for(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, beginning = "my_hooks.surprising_tokens", "note  columns "
    code, out, _ = run(path, capsys=capsys)
    assert (code, out[-2][: len(beginning)]) == (0, beginning)
    assert out[-2].endswith("found: it read old_logprobs; a run needs algo.advantage.reads=[old_logprobs]")
    checks = out[-1]
    code, out, _ = run(path, "reads=[values,old_logprobs]", "power=0.7", capsys=capsys)
    assert (code, out[-1]) == (0, checks)
    assert out[-2].endswith("it read old_logprobs, and not values; a run needs algo.advantage.reads=[old_logprobs]")


def test_an_advantage_that_reads_more_than_a_run_gives_it_is_found(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = run("my_hooks.surprising_tokens", "reads=[]", capsys=capsys)
    assert (code, out[1][:11]) == (1, "fail  call ")
    assert "ask for it with algo.advantage.reads=[old_logprobs]" in out[1]
    assert out[-2].endswith(
        "it read old_logprobs, of which old_logprobs was not given; "
        "a run needs at least algo.advantage.reads=[old_logprobs]"
    )


@pytest.mark.parametrize(
    ("name", "text"), [("leaves", "SystemExit: no more at my_broken.py:"), ("leaves_too", "SystemExit: 3")]
)
def test_a_function_that_ends_the_process_is_reported(
    name: str, text: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = run(f"my_broken.{name}", capsys=capsys)
    assert (code, err) == (1, [])
    assert out[1].startswith("fail  call ")
    assert text in out[1]


def test_contracts_of_other_kinds_are_not_imported() -> None:
    code = """
import sys
import rlscale.run.commands.check_hook
print(*(name for name in sys.modules if name.startswith("rlscale.run.contracts.")))
"""
    assert printed_without(("rlscale.run",), code) == "rlscale.run.contracts.kinds"

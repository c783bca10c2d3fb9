"""The examples of a reward, loss, environment and agent of one's own, each in a copy of its folder."""

from __future__ import annotations

import re
import shlex
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from rlscale.cli import main
from rlscale.config.composition.compose import compose
from rlscale.run.preflight import preflight_of_sweep

EXAMPLES = Path(__file__).parents[3] / "examples"
HOOKS = {
    "own_reward": "partial_credit",
    "own_loss": "topr",
    "own_environment": "second_try",
    "own_agent": "both_orders",
}
"""The folders and the module in each."""


@pytest.fixture(params=HOOKS)
def folder(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of the example as the current folder; its module is forgotten after."""
    copy = tmp_path / request.param
    shutil.copytree(EXAMPLES / request.param, copy, ignore=shutil.ignore_patterns("__pycache__", "runs"))
    monkeypatch.chdir(copy)
    yield copy
    sys.modules.pop(HOOKS[request.param], None)


def lines(folder: Path) -> list[list[str]]:
    """The README's commands without `python -m rlscale`."""
    blocks = re.findall(r"```sh\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    found = [line for block in blocks for line in block.splitlines()]
    assert all(line.startswith("python -m rlscale ") for line in found)
    return [shlex.split(line.removeprefix("python -m rlscale ")) for line in found]


def test_the_hook_keeps_its_contract(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(lines(folder)[0]) == 0
    *checks, total = capsys.readouterr().out.splitlines()
    # How long the event loop was held says how busy the machine is.
    assert [line for line in checks if line.startswith("warn") and "event loop" not in line] == []
    assert " checks, 0 failed, " in total


def test_the_recipe_builds_the_hook_that_was_checked(folder: Path) -> None:
    config = compose("recipe.yaml")
    preflight_of_sweep(config)
    nodes = {
        "own_reward": config.reward.function,
        "own_loss": getattr(config.algo.loss, "function", None),
        "own_environment": config.env,
        "own_agent": {"_target_": config.agent._target_, **config.agent.arguments},
    }
    node = nodes[folder.name]
    checked = lines(folder)[0]
    assert checked[1] == node["_target_"]
    assert dict(word.split("=") for word in checked[2:]) == {k: str(v) for k, v in node.items() if k != "_target_"}


def test_the_reward_gives_part_of_the_credit_for_part_of_the_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(EXAMPLES / "own_reward")
    from partial_credit import DigitsInPlace

    reward = DigitsInPlace(partial=0.5)
    assert [reward(response, "58", {}) for response in ("58", "57", "85", "588", "", "5")] == pytest.approx(
        [1.0, 0.25, 0.0, 1 / 3, 0.0, 0.25]
    )
    reward.check_label("58")
    with pytest.raises(ValueError, match="is not a text of digits"):
        reward.check_label(58)
    del sys.modules["partial_credit"]


def test_the_loss_pushes_what_was_bad_less_the_further_it_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from rlscale.algo.protocols import LossInputs

    monkeypatch.syspath_prepend(EXAMPLES / "own_loss")
    from topr import tapered

    old = torch.full((4,), -1.0)
    logprobs = (old + torch.tensor([0.5, -0.5, 0.5, -0.5])).requires_grad_()
    advantages = torch.tensor([1.0, 1.0, -1.0, -1.0])
    mask = torch.ones(4, dtype=torch.bool)
    tapered(LossInputs(logprobs, old, advantages, mask, lambda x: x, {})).loss.sum().backward()
    # Good ones count in full, bad ones by their ratio, at most by `most`.
    assert torch.allclose(logprobs.grad, torch.tensor([-1.0, -1.0, 1.0, 0.6065]), atol=1e-4)
    del sys.modules["topr"]

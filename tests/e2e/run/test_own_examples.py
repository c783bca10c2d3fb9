"""The examples of a reward, a loss and an environment of one's own: two iterations with all of them, and lines."""

from __future__ import annotations

import math
import re
import shlex
import shutil
from pathlib import Path

from tests.e2e.run.command import metrics, run, summary

EXAMPLES = Path(__file__).parents[3] / "examples"


def line_of(example: str, first: str) -> list[str]:
    """The line of the example's README that begins so, without `python -m rlscale`."""
    (found,) = re.findall(rf"^python -m rlscale ({first}.*)$", (EXAMPLES / example / "README.md").read_text(), re.M)
    return shlex.split(found)


def test_a_reward_a_loss_and_an_environment_of_ones_own_train(short: list[str], warm: str, tmp_path: Path) -> None:
    for example in ("own_reward", "own_loss"):
        shutil.copytree(EXAMPLES / example, tmp_path, ignore=shutil.ignore_patterns("runs"), dirs_exist_ok=True)
        checked = run(tmp_path, *line_of(example, "check "), warm)
        assert checked.code == 0, checked.text
        assert "no problems found" in checked.text
    # The recipe is the loss's, which was copied last.
    reward = ["reward=custom", "reward.function._target_=partial_credit.DigitsInPlace"]
    shutil.copy(EXAMPLES / "own_environment" / "second_try.py", tmp_path)
    second = ["env._target_=second_try.SecondTry", "rollout.max_turn_tokens=5", "rollout.max_response_tokens=18"]
    shorter = [*short, *reward, *second, "eval.enabled=false", "checkpoint.every=0"]
    ended = run(tmp_path, *line_of("own_loss", "recipe="), *shorter)
    assert ended.code == 0, ended.text
    folder = tmp_path / "runs" / "first"
    lines = metrics(folder)
    assert [line["steps"] for line in lines] == [2, 2]
    assert all(math.isfinite(line["loss"]) and line["grad_norm"] > 0 for line in lines)
    # A model that cannot calculate yet has digits in their place now and then, and so something to learn from.
    assert all(0 < line["reward"] < 1 and line["reward_std"] > 0 for line in lines)
    assert all(1 < line["turns"] <= 2 and line["observed_share"] > 0 for line in lines)
    assert summary(folder)["samples_failed"] == 0

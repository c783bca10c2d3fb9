"""Problems made in a process of their own: the same by seed, harder and easier with the policy, never both split."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rlscale.config.errors import UserError
from rlscale.data.prompts.sources import RawPrompt
from rlscale.data.sample import Prompt
from rlscale.envs.problems.arithmetic_problems import LIMITS, ArithmeticProblems
from rlscale.envs.problems.problem_reward import ProblemReward
from rlscale.envs.problems.problem_source import ProblemSource
from rlscale.envs.score import Failed
from rlscale.envs.workers.object_process import ObjectProcess
from rlscale.run.contracts.source_contract import check_source
from rlscale.trainer.hook_contract import failed

MAKER = {"_target_": "rlscale.envs.problems.arithmetic_problems.ArithmeticProblems"}


def told(source: ProblemSource, raw: RawPrompt, reward: float) -> None:
    prompt = Prompt(raw.index, raw.id, np.zeros(1, np.int32), raw.label, raw.info)
    source.observe(prompt, [reward] * 4, "kept")


def numbers(raw: RawPrompt) -> tuple[int, ...]:
    return tuple(sorted(int(part) for part in str(raw.prompt).rstrip("=").split("+")))


def test_it_is_an_adaptive_source() -> None:
    assert not failed(check_source(lambda: ProblemSource(MAKER, size=50, window=4)))


def test_difficulty_rises_and_falls_with_the_policy() -> None:
    source = ProblemSource(MAKER, level=3, window=4, easier=0.0)
    course = []
    for reward in [1.0] * 12 + [0.0] * 16:
        raw = source.next(1)[0]
        assert max(numbers(raw)) < LIMITS[raw.info["difficulty"]]
        told(source, raw, reward)
        course.append(raw.info["difficulty"])
    assert course == [3] * 4 + [4] * 4 + [5] * 4 + [6] * 4 + [5] * 4 + [4] * 4 + [3] * 4


def test_a_fixed_level_stays() -> None:
    source = ProblemSource(MAKER, level=2, adaptive=False, window=1)
    for raw in source.next(20):
        told(source, raw, 1.0)
    assert {raw.info["difficulty"] for raw in source.next(20)} == {2}


def test_what_is_held_out_is_never_trained_on_and_answers_are_right() -> None:
    train = {numbers(raw) for raw in ProblemSource(MAKER, level=1, adaptive=False).next(800)}
    held_out = {numbers(raw) for raw in ProblemSource(MAKER, level=1, adaptive=False, split="held_out").next(200)}
    assert len(train) > 150
    assert len(held_out) > 10
    assert not train & held_out
    raw = ProblemSource(MAKER).next(1)[0]
    assert str(raw.label)[::-1] == str(sum(numbers(raw)))


def test_the_reward_makes_the_problem_again() -> None:
    reward = ProblemReward(MAKER)
    for raw in ProblemSource(MAKER, level=4).next(10):
        assert reward(f" {raw.label}\n", None, raw.info) == 1.0
        assert reward(f"{raw.label}0", raw.label, raw.info) == 0.0
    other = {**raw.info, "seed": raw.info["seed"] + 2}  # as where the seed gives another one in another process
    assert isinstance(reward("1", "1", other), Failed)
    with pytest.raises(ValueError, match="not a problem of"):
        reward("1", "1", {})
    with pytest.raises(UserError, match=r"reward\.function\.maker is missing"):
        ProblemReward()


def test_a_maker_that_reseeds_the_generators_does_so_elsewhere() -> None:
    node = {"_target_": "tests.unit.envs.problems.unruly.Unruly"}
    before = random.getstate()
    source = ProblemSource(node, ["any"], level=None)
    first = source.next(3)
    assert random.getstate() == before
    assert ProblemSource(node, ["any"], level=None).next(3) == first


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"maker": MAKER, "names": ["product"]}, "there is one kind of problem, sum, and not product"),
        ({"maker": MAKER, "level": 12}, "level=12: choose from 0 to 11"),
        ({"maker": MAKER, "split": "test"}, "split=test: choose train or held_out"),
        (
            {"maker": {"_target_": "tests.unit.envs.problems.unruly.Unruly"}, "names": ["any"]},
            "any has no levels; set data.source.level=null",
        ),
    ],
)
def test_what_cannot_be_is_refused(arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        ProblemSource(**arguments)


def test_a_problem_that_cannot_be_made_is_an_error_and_the_next_one_can() -> None:
    source = ProblemSource({"_target_": "tests.unit.envs.problems.unruly.Unruly"}, level=None)
    with pytest.raises(UserError, match="no such luck"):
        source.next(2)
    assert len(source.next(1)) == 1


def test_a_process_that_dies_is_started_again_for_the_same_problem(tmp_path: Path) -> None:
    maker = {"_target_": "tests.unit.envs.problems.unruly.Unruly"}
    unlucky = ProblemSource({**maker, "marker": str(tmp_path / "marker")}, names=["any"], level=None)
    assert unlucky.next(2) == ProblemSource(maker, names=["any"], level=None).next(2)
    assert (tmp_path / "marker").exists()


def test_sets_have_the_same_order_in_every_process() -> None:
    node = {"_target_": "tests.unit.envs.problems.unruly.Unruly"}
    made = []
    for _ in range(2):
        process = ObjectProcess(node, "maker")
        made.append(process.call("make", [("order", None, seed) for seed in range(5)], 60.0))
        process.close()
    assert made[0] == made[1]


def test_every_level_has_sums_of_both_splits() -> None:
    maker = ArithmeticProblems()
    for level in range(maker.highest_levels([])["sum"] or 0):
        assert maker.make("sum", level, 2) == maker.make("sum", level, 2)
        assert maker.make("sum", level, 3).prompt.endswith("=")


def test_what_makes_no_problems_is_not_built_to_find_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "no_maker.py").write_text("class Touches:\n    def __init__(self):\n        open('ran', 'w').close()\n")
    node = {"_target_": "no_maker.Touches"}
    with pytest.raises(UserError, match=r"reward\.function\.maker: no_maker\.Touches does not follow .*ProblemMaker"):
        ProblemReward(node)
    with pytest.raises(UserError, match=r"no_maker\.Touches has no method highest_levels"):
        ProblemSource(node)
    assert not (tmp_path / "ran").exists()

"""A turn that asks the calculator is answered, another ends the episode with its reward."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from rlscale.data.sample import Prompt
from rlscale.envs.calculator import Calculator
from rlscale.envs.environment import Action, Step
from rlscale.envs.score import Score

PROMPT = Prompt(0, "47*38", np.arange(4, dtype=np.int32), "1786")


class Exact:
    """1 where the response is the label."""

    async def score(self, action: Action, prompt: Prompt) -> float:
        return float(action.text == prompt.label)


def played(*turns: str, calls: int = 1) -> list[Step]:
    """What the environment answers to these turns."""

    async def play() -> list[Step]:
        environment = Calculator(Exact(), calls)
        await environment.reset(PROMPT, 0)
        return [await environment.step(Action(text, text, [])) for text in turns]

    return asyncio.run(play())


@pytest.mark.parametrize(("asked", "value"), [("47*38?", "1786"), ("47+38?", "85"), ("3-10?", "-7"), (" 0*9? ", "0")])
def test_what_is_asked_is_answered_by_the_tool(asked: str, value: str) -> None:
    (step,) = played(asked)
    assert not step.done
    assert step.messages == [{"role": "tool", "content": value}]
    assert step.reward == 0


def test_the_answer_ends_the_episode_with_its_reward_and_the_number_of_calls() -> None:
    _, right = played("47*38?", "1786")
    assert (right.done, right.reward, right.info) == (True, 1.0, {"calls": 1})
    (wrong,) = played("1785")
    assert (wrong.done, wrong.reward, wrong.info) == (True, 0.0, {"calls": 0})


def test_what_the_score_is_made_of_goes_along() -> None:
    class Parted:
        async def score(self, action: Action, prompt: Prompt) -> float:
            return Score(0.5, {"style": 0.25})

    async def play() -> Step:
        environment = Calculator(Parted())
        await environment.reset(PROMPT, 0)
        return await environment.step(Action("1786", "1786", []))

    assert asyncio.run(play()).info == {"calls": 0, "reward_parts": {"style": 0.25}}


@pytest.mark.parametrize("text", ["47*38", "47*?", "47**38?", "1+2+3?", "9999999999*1?", "", "47*38?1"])
def test_what_the_calculator_does_not_understand_is_an_answer(text: str) -> None:
    assert played(text)[0].done


def test_a_call_too_many_is_an_answer() -> None:
    assert [step.done for step in played("1+1?", "1+1?", "1+1?", calls=2)] == [False, False, True]

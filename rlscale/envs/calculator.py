"""Arithmetic with a calculator: a turn like `47*38?` is answered by its value, any other is the answer."""

from __future__ import annotations

import re

from rlscale.data.sample import Prompt
from rlscale.envs.environment import Action, Environment, Scorer, Start, Step
from rlscale.envs.score import info_of

_CALL = re.compile(r"(\d{1,9})([+*-])(\d{1,9})\?")


class Calculator(Environment):
    """The policy may ask for a sum, difference or product of two numbers, at most `calls` times, before it answers.

    What it asks is answered by a message of the role `tool`. `info["calls"]` counts what it asked.
    """

    def __init__(self, reward: Scorer, calls: int = 1) -> None:
        self._reward, self._left, self._calls = reward, calls, 0

    async def reset(self, prompt: Prompt, seed: int) -> Start:
        """The problem as the data has it."""
        self._prompt = prompt
        return Start()

    async def step(self, action: Action) -> Step:
        """The value of what was asked, or the end with the reward of the answer."""
        call = _CALL.fullmatch(action.text.strip())
        if call is not None and self._left:
            self._left -= 1
            self._calls += 1
            return Step(messages=[{"role": "tool", "content": str(_value(int(call[1]), call[2], int(call[3])))}])
        score = await self._reward.score(action, self._prompt)
        return Step(reward=score, done=True, info={"calls": self._calls} | info_of(score))


def _value(a: int, sign: str, b: int) -> int:
    return a + b if sign == "+" else a - b if sign == "-" else a * b

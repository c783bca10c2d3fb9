"""An environment of several turns: a wrong answer may be corrected, for less of the reward."""

from __future__ import annotations

from rlscale.data.sample import Prompt
from rlscale.envs.environment import Action, Environment, Scorer, Start, Step


class SecondTry(Environment):
    """A right answer ends the episode; a wrong one is answered by `?` and the question, until the tries are used up."""

    def __init__(self, reward: Scorer, tries: int = 2, later: float = 0.5) -> None:
        """`reward` is the configured one; every further try makes what it is worth `later` times as much."""
        self._reward, self._tries, self._later = reward, tries, later
        self._turns = 0

    async def reset(self, prompt: Prompt, seed: int) -> Start:
        """The question as the data has it."""
        self._prompt = prompt
        return Start()

    async def step(self, action: Action) -> Step:
        """The end with the reward, or another try."""
        self._turns += 1
        score = float(await self._reward.score(action, self._prompt))
        if score > 0 or self._turns == self._tries:
            return Step(reward=score * self._later ** (self._turns - 1), done=True, info={"tries": self._turns})
        question = self._prompt.messages[-1]["content"]
        return Step(messages=[{"role": "user", "content": f"?{question}"}])

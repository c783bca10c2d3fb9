"""A C function, written over several turns: right first, then fast."""

from __future__ import annotations

import asyncio
from functools import lru_cache

from rlscale.config.errors import UserError
from rlscale.data.sample import Prompt
from rlscale.envs.environment import Action, Environment, Start, Step
from rlscale.envs.kernels.measured_kernel import KernelJudge
from rlscale.envs.rewards.code_tests import code_of
from rlscale.envs.sandbox.program import REQUIRED


class CKernel(Environment):
    """The policy writes a function, is told what is wrong with it or how fast it is, and may write it again.

    The prompt's `info["reference"]` is plain C that does what is asked (rlscale.envs.kernels.kernel_tasks.SIGNATURE). A
    function that is wrong is worth 0, one that is right `correct`, and more up to 1 for one that is `most` times as
    fast as the reference. The sample's reward is that of the best function; each turn gets what it added. The episode
    ends after `turns`, or with a function that is worth 1. The reward's parts are `correct` and the best one's `speed`.
    """

    def __init__(
        self,
        turns: int = 4,
        correct: float = 0.5,
        most: float = 4.0,
        n: int = 2000,
        wall_s: float = 10.0,
        sandbox: str = REQUIRED,
    ) -> None:
        """`n`: size of the arrays that are timed; `wall_s`: of each run. UserError without a compiler or a sandbox."""
        if not (most > 1 and 0 < correct <= 1 and turns >= 1):
            raise UserError(
                f"env=kernel_c: most={most} must be above 1, correct={correct} above 0 and at most 1, turns={turns} at "
                "least 1"
            )
        self._judge = _judge(n, wall_s, sandbox)
        self._turns, self._correct, self._most = turns, correct, most
        self._turn, self._best, self._speed = 0, 0.0, 0.0

    async def reset(self, prompt: Prompt, seed: int) -> Start:
        """The task as the data has it."""
        self._reference = str(prompt.info["reference"])
        return Start()

    async def step(self, action: Action) -> Step:
        """What came of the function, or the end."""
        self._turn += 1
        judged = await asyncio.to_thread(self._judge.judged, code_of(action.text), self._reference)
        worth, said = 0.0, judged.wrong
        if not judged.wrong:
            share = (min(max(judged.speed, 1.0), self._most) - 1) / (self._most - 1)
            worth = self._correct + (1 - self._correct) * share
            said = f"It is right, and {judged.speed:.2f} times as fast as plain C. Make it faster."
        gained = max(worth - self._best, 0.0)
        if gained:
            self._best, self._speed = worth, judged.speed
        parts = {"correct": float(self._best > 0), "speed": self._speed}
        done = self._best >= 1 or self._turn >= self._turns
        return Step([{"role": "user", "content": said}], gained, done, info={"reward_parts": parts})


@lru_cache(maxsize=16)
def _judge(n: int, wall_s: float, sandbox: str) -> KernelJudge:
    """One for all samples, so that a reference is measured once."""
    return KernelJudge(n, wall_s, sandbox)

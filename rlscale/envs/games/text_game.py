"""An episode of a game in words, which is played in one of a few processes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from rlscale.config.errors import UserError
from rlscale.data.sample import Prompt
from rlscale.envs.environment import Action, Environment, Start, Step
from rlscale.envs.problems.reasoning_gym_problems import answer_in
from rlscale.envs.reward import RewardFailed
from rlscale.envs.workers.object_process import ObjectProcess, ObjectProcessFailed, ObjectProcessLate


class TextGame(Environment):
    """The policy acts, is shown what came of it, and so on until the game gives its reward.

    `maker`: `_target_` of what plays games by name, seed and actions (rlscale.envs.games.text_arena_games), and its
    arguments; it must be that of the source, a rlscale.envs.problems.problem_source.ProblemSource. An action is what
    stands in the turn's last <answer>, or all of the turn behind its thoughts. One on which a game raises, also in a
    fresh process, or takes over `limit_s` seconds, ends it with `wrong`.
    """

    def __init__(
        self,
        maker: Mapping[str, Any] | None = None,
        turns: int | None = None,
        processes: int = 2,
        limit_s: float = 10.0,
        wrong: float = 0.0,
    ) -> None:
        """`turns`: after which an episode is cut off; `limit_s`: of each turn, well below
        `rollout.step_timeout_s`, since games of the same process wait for it. UserError without a maker."""
        if not maker:
            raise UserError("env.maker is missing: by default it is that of data=textarena")
        if processes < 1 or limit_s <= 0:
            raise UserError(f"env: processes={processes} must be at least 1, and limit_s={limit_s} above 0")
        self._tables = _tables(json.dumps(maker, sort_keys=True, default=str), processes)
        self._turns, self._limit_s, self._wrong = turns, limit_s, wrong

    async def reset(self, prompt: Prompt, seed: int) -> Start:
        """The game as the prompt has it: all samples of a group play the same one. ValueError for another prompt."""
        if "problem" not in prompt.info or "seed" not in prompt.info:
            raise ValueError("the prompt is not a game of rlscale.envs.problems.problem_source.ProblemSource")
        self._game: tuple[str, int] = prompt.info["problem"], prompt.info["seed"]
        self._table = self._tables[seed % len(self._tables)]
        self._actions: list[str] = []
        return Start(max_turns=self._turns)

    async def step(self, action: Action) -> Step:
        """What came of the action, or the end. RewardFailed where the game cannot be opened."""
        self._actions.append(answer_in(action.text))
        try:
            said, reward, done = await self._table.turn(*self._game, self._actions, self._limit_s)
        except ObjectProcessFailed as error:
            return Step(reward=self._wrong, done=True, info={"game_error": str(error)[:300]})
        return Step([{"role": "user", "content": said or "(nothing)"}], reward, done)

    async def close(self) -> None:
        """Nothing to free: the processes are shared."""


class _Table:
    """A process in which many games are played, one turn at a time."""

    def __init__(self, maker: Mapping[str, Any]) -> None:
        self._process = ObjectProcess(maker, "env.maker")
        self._turn = asyncio.Lock()

    async def turn(self, name: str, seed: int, actions: Sequence[str], limit_s: float) -> tuple[str, float, bool]:
        """What came of the last action. ObjectProcessFailed where the game took too long, or failed twice."""
        await self._turn.acquire()  # so that waiting for the process holds no thread
        game = asyncio.get_running_loop().run_in_executor(None, self._played, name, seed, list(actions), limit_s)
        game.add_done_callback(self._over)
        return await asyncio.shield(game)

    def _over(self, game: asyncio.Future[Any]) -> None:
        """Also of a step that was given up: until here its thread has the process."""
        self._turn.release()
        if not game.cancelled():
            game.exception()  # nobody else may ask for it

    def _played(self, name: str, seed: int, actions: list[str], limit_s: float) -> tuple[str, float, bool]:
        """See `turn`. Blocks."""
        try:
            return self._asked(name, seed, actions, limit_s)
        except ObjectProcessLate:  # a hang is not tried twice: it takes the time of every game of this process
            raise
        except ObjectProcessFailed:  # in a fresh process, so that nothing of another game's has to do with it
            self._process.close()
            return self._asked(name, seed, actions, limit_s)

    def _asked(self, name: str, seed: int, actions: list[str], limit_s: float) -> tuple[str, float, bool]:
        if self._process.fresh:  # what it imports is not part of the action's time, nor the action's fault
            try:
                self._process.call("make", [(name, None, seed)], limit_s)
            except ObjectProcessFailed as error:
                raise RewardFailed(str(error)) from error
        said, reward, done = self._process.call("turn", [(name, seed, actions)], limit_s)[0]
        return said, reward, done


@lru_cache(maxsize=16)
def _tables(maker: str, processes: int) -> list[_Table]:
    """Shared by all samples of this program."""
    return [_Table(json.loads(maker)) for _ in range(processes)]

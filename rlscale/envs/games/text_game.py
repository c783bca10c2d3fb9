"""An episode of a game in words, which is played in one of a few processes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache, partial
from typing import Any

from rlscale.config.errors import UserError
from rlscale.data.sample import Prompt
from rlscale.envs.environment import Action, Environment, Start, Step
from rlscale.envs.problems.reasoning_gym_problems import answer_in
from rlscale.envs.reward import RewardFailed
from rlscale.envs.workers.object_process import ObjectProcess, ObjectProcessFailed, ObjectProcessLate

_PATIENCE_S = 1.0
"""Seconds of a turn, after which the others of its process go on in another one."""
_MOST_ASIDE = 4
"""Processes that are set aside at a time, for each of `processes`."""


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
        """`turns`: after which an episode is cut off; `limit_s`: of each turn, below
        `rollout.step_timeout_s`. UserError without a maker."""
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
    """A process in which many games are played, one turn at a time.

    A turn that takes long goes on in a process that is set aside, and those behind it get another one: what a game is
    follows from its actions, so that any process can play it on. Once its turn is over it is a spare one.
    """

    def __init__(self, maker: Mapping[str, Any]) -> None:
        self._maker = maker
        self._process = ObjectProcess(maker, "env.maker")
        self._turn = asyncio.Lock()
        self._aside = 0
        self._spare: list[ObjectProcess] = []
        # Its own threads: turns that hang hold up nothing else.
        self._threads = ThreadPoolExecutor(1 + _MOST_ASIDE, "game")
        self._playing: set[asyncio.Task[Any]] = set()

    async def turn(self, name: str, seed: int, actions: Sequence[str], limit_s: float) -> tuple[str, float, bool]:
        """What came of the last action. ObjectProcessFailed where the game took too long, or failed twice."""
        game = asyncio.create_task(self._taken(name, seed, list(actions), limit_s))
        self._playing.add(game)
        game.add_done_callback(self._over)
        return await asyncio.shield(game)  # where the step is given up, its thread has the process still

    def _over(self, game: asyncio.Task[Any]) -> None:
        self._playing.discard(game)
        if not game.cancelled():
            game.exception()  # nobody else may ask for it

    async def _taken(self, name: str, seed: int, actions: list[str], limit_s: float) -> tuple[str, float, bool]:
        """See `turn`."""
        loop = asyncio.get_running_loop()
        await self._turn.acquire()  # so that waiting for the process holds no thread
        process, held = self._process, True
        try:
            await loop.run_in_executor(self._threads, _open, process, name, seed, limit_s)
            game = loop.run_in_executor(self._threads, _played, process, name, seed, actions, limit_s)
            if not (await asyncio.wait([game], timeout=_PATIENCE_S))[0] and self._aside < _MOST_ASIDE:
                self._process = self._spare.pop() if self._spare else ObjectProcess(self._maker, "env.maker")
                self._aside, held = self._aside + 1, False
                self._turn.release()
            return await game
        finally:
            if held:
                self._turn.release()
            else:
                self._aside -= 1
                self._spare.append(process)  # one that hung has ended, and starts anew when it is called


def _open(process: ObjectProcess, name: str, seed: int, limit_s: float) -> None:
    """Start a process: what it imports is not part of an action's time, nor the action's fault. Blocks."""
    if process.fresh:
        try:
            process.call("make", [(name, None, seed)], limit_s)
        except ObjectProcessFailed as error:
            raise RewardFailed(str(error)) from error


def _played(
    process: ObjectProcess, name: str, seed: int, actions: list[str], limit_s: float
) -> tuple[str, float, bool]:
    """See `_Table.turn`. Blocks."""
    call = partial(process.call, "turn", [(name, seed, actions)], limit_s)
    try:
        said, reward, done = call()[0]
    except ObjectProcessLate:  # a hang is not tried twice
        raise
    except ObjectProcessFailed:  # in a fresh process, so that nothing of another game's has to do with it
        process.close()
        _open(process, name, seed, limit_s)
        said, reward, done = call()[0]
    return said, reward, done


@lru_cache(maxsize=16)
def _tables(maker: str, processes: int) -> list[_Table]:
    """Shared by all samples of this program."""
    return [_Table(json.loads(maker)) for _ in range(processes)]

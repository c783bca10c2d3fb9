"""Rewards by comparison: the responses of a group play against each other."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping, Sequence
from typing import Any

from rlscale.config.errors import UserError
from rlscale.data.sample import Prompt
from rlscale.data.target import build_target
from rlscale.envs.environment import Action
from rlscale.envs.group_reward import PairJudge
from rlscale.envs.reward import RewardFailed
from rlscale.envs.score import Failed, Score

KINDS = ("round_robin", "elimination")
_NO_SIGNAL = 0.5
"""What the only response of a group gets: there is nobody to compare it with."""


class Tournament:
    """A GroupReward from 0.0 to 1.0: each pair that meets is judged in both orders, and ties count half.

    `round_robin`: all meet all (28 pairs of 8), and a score is the share of points. `elimination`: everyone meets two
    others, drawn by chance, which gives the places from which a bracket is played (at most 8 + 7 pairs of 8); a score
    is the share of rounds won, and a tie is won by the better place.

    `judge`: `_target_` of a PairJudge and its arguments, or one that is built. A pair that the judge could not compare
    in both orders is skipped; in a bracket the better place goes on. Where more than `max_failed` of the pairs are
    skipped, all responses have failed, and so has one of which no pair was judged. `concurrent`: pairs at a time.
    """

    def __init__(
        self,
        judge: Mapping[str, Any] | PairJudge,
        kind: str = "round_robin",
        max_failed: float = 0.25,
        concurrent: int = 16,
    ) -> None:
        if kind not in KINDS:
            raise UserError(f"kind={kind}: must be {' or '.join(KINDS)}")
        if not 0 <= max_failed <= 1 or concurrent < 1:
            raise UserError(f"max_failed={max_failed} must be from 0 to 1, and concurrent={concurrent} at least 1")
        self._judge = _built(judge) if isinstance(judge, Mapping) else judge
        self._kind, self._max_failed, self._concurrent = kind, max_failed, concurrent

    async def __call__(self, prompt: Prompt, responses: Sequence[Action]) -> list[Score | Failed]:
        """A score for each response. The draw depends on the prompt's number alone."""
        if len(responses) < 2:
            return [Score(_NO_SIGNAL)] * len(responses)
        matches = _Matches(self._judge, prompt, responses, asyncio.Semaphore(self._concurrent))
        if self._kind == "round_robin":
            points = await _round_robin(matches, len(responses))
        else:
            points = await _elimination(matches, len(responses), random.Random(prompt.index))
        if matches.skipped > self._max_failed * matches.played:
            reason = f"{matches.skipped} of {matches.played} pairs could not be judged: {matches.reason}"
            return [Failed(reason)] * len(responses)
        return [Failed(matches.reason) if one is None else Score(one) for one in points]


def _built(judge: Mapping[str, Any]) -> PairJudge:
    """The judge that a node names. UserError if it cannot be built."""
    try:
        built: PairJudge = build_target(judge, "judge", 3)
    except UserError as error:
        told = str(error)
        raise UserError(told if told.startswith("judge") else f"judge.{told}") from None
    return built


class _Matches:
    """Plays pairs of a group's responses, and counts them."""

    def __init__(self, judge: PairJudge, prompt: Prompt, responses: Sequence[Action], slots: asyncio.Semaphore) -> None:
        self._judge, self._prompt, self._responses, self._slots = judge, prompt, responses, slots
        self.played = self.skipped = 0
        self.reason = ""

    async def play(self, pairs: Sequence[tuple[int, int]]) -> list[float | None]:
        """The points of the first of each pair, from 0 to 1; None for a pair that is skipped."""
        return list(await asyncio.gather(*(self._pair(a, b) for a, b in pairs)))

    async def _pair(self, a: int, b: int) -> float | None:
        self.played += 1
        there, back = await asyncio.gather(self._ask(a, b), self._ask(b, a))
        if there is None or back is None:
            self.skipped += 1
            return None
        return (there + 1.0 - back) / 2

    async def _ask(self, first: int, second: int) -> float | None:
        async with self._slots:
            try:
                found = await self._judge(self._prompt, self._responses[first], self._responses[second])
            except (RewardFailed, OSError) as error:
                found = Failed(f"{type(error).__name__}: {error}")
        if not isinstance(found, Failed) and not 0 <= found <= 1:
            found = Failed(f"the judge of pairs gave {found}, which is not from 0 to 1")
        if isinstance(found, Failed):
            self.reason = found.reason
            return None
        return found


async def _round_robin(matches: _Matches, n: int) -> list[float | None]:
    pairs = [(a, b) for a in range(n) for b in range(a + 1, n)]
    return _shares(pairs, await matches.play(pairs), n)


async def _elimination(matches: _Matches, n: int, draw: random.Random) -> list[float | None]:
    order = draw.sample(range(n), n)
    ring = [(order[place], order[(place + 1) % n]) for place in range(n if n > 2 else 1)]
    shares = _shares(ring, await matches.play(ring), n)
    # Best first; those of whom nothing is known are in the middle, and equal ones as they were drawn.
    left = sorted(order, key=lambda one: -(_NO_SIGNAL if shares[one] is None else float(shares[one] or 0)))
    won = [0] * n
    rounds = (n - 1).bit_length()
    for number in range(rounds):
        # The best play the worst; where the bracket is not full, the best have no opponent in the first round.
        size = 1 << (rounds - number)
        free = size - len(left)
        playing = left[free:]
        pairs = [(playing[place], playing[-1 - place]) for place in range(len(playing) // 2)]
        points = await matches.play(pairs)
        beaten = {a if found is not None and found < 0.5 else b for (a, b), found in zip(pairs, points, strict=True)}
        left = [one for one in left if one not in beaten]
        for one in left:
            won[one] += 1
    return [None if share is None else won[one] / rounds for one, share in enumerate(shares)]


def _shares(pairs: Sequence[tuple[int, int]], points: Sequence[float | None], n: int) -> list[float | None]:
    """The points of each over the pairs of it that were judged; None for one without such a pair."""
    total, judged = [0.0] * n, [0] * n
    for (a, b), found in zip(pairs, points, strict=True):
        if found is not None:
            total[a] += found
            total[b] += 1.0 - found
            judged[a] += 1
            judged[b] += 1
    return [one / number if number else None for one, number in zip(total, judged, strict=True)]

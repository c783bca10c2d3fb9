"""Tournaments: points by hand, orders, ties, pairs that fail, and what a model as judge is asked."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from aiohttp import web

from rlscale.config.errors import UserError
from rlscale.data.sample import Prompt
from rlscale.envs.environment import Action
from rlscale.envs.reward import RewardFailed
from rlscale.envs.rewards.pair_judge import ModelPairJudge
from rlscale.envs.score import Failed
from rlscale.envs.tournament import Tournament

PROMPT = Prompt(4, "4", np.array([1], np.int32), None, {}, "", [{"role": "user", "content": "Write!"}])


class ByNumber:
    """The greater number is better; `broken` pairs fail in one order; `first_bias`: whoever is shown first wins."""

    def __init__(self, broken: Sequence[tuple[str, str]] = (), first_bias: bool = False) -> None:
        self.broken, self.first_bias, self.asked = set(broken), first_bias, []

    async def __call__(self, prompt: Prompt, first: Action, second: Action) -> float | Failed:
        self.asked.append((first.text, second.text))
        if (first.text, second.text) in self.broken:
            raise RewardFailed("offline")
        if self.first_bias:
            return 1.0
        return 0.5 if first.text == second.text else float(float(first.text) > float(second.text))


def play(texts: str, judge: Any, **more: Any) -> list[Any]:
    actions = [Action(text, text, [1]) for text in texts.split()]
    return asyncio.run(Tournament(judge, **more)(PROMPT, actions))


def test_round_robin_gives_the_share_of_points_and_ties_count_half() -> None:
    judge = ByNumber()
    assert play("1 3 2 3", judge) == [0.0, (1 + 1 + 0.5) / 3, 1 / 3, (1 + 1 + 0.5) / 3]
    assert len(judge.asked) == 12  # 6 pairs in both orders
    assert len(play(" ".join(map(str, range(8))), judge := ByNumber())) == 8
    assert len(judge.asked) == 2 * 28


@pytest.mark.parametrize("kind", ["round_robin", "elimination"])
def test_a_judge_that_prefers_what_it_is_shown_first_says_nothing_in_round_robin(kind: str) -> None:
    found = play("1 2 3 4", ByNumber(first_bias=True), kind=kind)
    if kind == "round_robin":
        assert found == [0.5] * 4
    else:  # every pair is a tie, and the draw decides
        assert sorted(found) == [0.0, 0.0, 0.5, 1.0]


@pytest.mark.parametrize("n", [2, 3, 4, 5, 7, 8, 16])
def test_the_best_wins_the_bracket_and_each_round_halves_it(n: int) -> None:
    judge = ByNumber()
    found = play(" ".join(map(str, range(n))), judge, kind="elimination")
    rounds = (n - 1).bit_length()
    assert found[n - 1] == 1.0
    assert sum(score == 1.0 for score in found) == 1
    # One loses in each match: n - 1 of them, besides the ring of places.
    assert len(judge.asked) == 2 * (n - 1 + (n if n > 2 else 1))
    reached = [round(score * rounds) for score in found]
    for number in range(1, rounds + 1):
        assert sum(won >= number for won in reached) == 1 << (rounds - number)
    assert play(" ".join(map(str, range(n))), ByNumber(), kind="elimination") == found


def test_a_pair_that_fails_in_one_order_is_skipped() -> None:
    found = play("1 2 3 4", ByNumber(broken=[("4", "1")]))
    assert found == [0.0, 1 / 3, 2 / 3, 1.0]  # 1 has lost to two of two, 4 has won two of two


def test_too_many_skipped_pairs_fail_the_group_and_one_that_nobody_judged_fails() -> None:
    broken = [("1", "2"), ("1", "3"), ("1", "4")]
    assert play("1 2 3 4", ByNumber(broken)) == [Failed("3 of 6 pairs could not be judged: RewardFailed: offline")] * 4
    found = play("1 2 3 4", ByNumber(broken), max_failed=0.5)
    assert found == [Failed("RewardFailed: offline"), 0.0, 0.5, 1.0]


def test_a_group_of_one_gets_no_signal_and_asks_nobody() -> None:
    judge = ByNumber()
    assert (play("1", judge), play("", judge), judge.asked) == ([0.5], [], [])


def test_what_cannot_be_a_tournament_is_refused() -> None:
    for more, message in (
        ({"kind": "swiss"}, "kind=swiss: must be round_robin or elimination"),
        ({"max_failed": 2}, "max_failed=2 must be from 0 to 1"),
    ):
        with pytest.raises(UserError, match=message):
            Tournament(ByNumber(), **more)


def test_a_model_judges_pairs_and_one_without_a_verdict_has_failed() -> None:
    asked: list[str] = []

    async def handle(request: web.Request) -> web.Response:
        asked.append((await request.json())["messages"][1]["content"])
        first = asked[-1].split("FIRST RESPONSE", 1)[1].split("\n")[1]
        said = {"good": "<think>Better: second</think>It is. **Better: first**", "bad": "Better: second"}.get(
            first, "hm"
        )
        return web.json_response({"choices": [{"message": {"content": said}}]})

    async def main() -> Any:
        app = web.Application()
        app.router.add_post("/v1/chat/completions", handle)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        node = {"_target_": f"{ModelPairJudge.__module__}.ModelPairJudge", "model": "m", "rubric": "Short is good."}
        node["url"] = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
        try:
            game = Tournament(node, max_failed=1.0)
            return await game(PROMPT, [Action(text, text, [1]) for text in ("<think>x</think>good", "bad", "odd")])
        finally:
            await runner.cleanup()

    found = asyncio.run(main())
    assert found == [1.0, 0.0, Failed("the judge of pairs gave no verdict: 'hm'")]
    assert "Short is good." in asked[0]
    assert "user: Write!" in asked[0]

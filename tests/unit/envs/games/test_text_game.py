"""Episodes of games in words: turns, groups, and games that are brought down; TextArena's own (an extra)."""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rlscale.config.errors import UserError
from rlscale.data.sample import Prompt
from rlscale.envs.environment import Action, Step
from rlscale.envs.games import text_arena_games, text_game
from rlscale.envs.games.text_arena_games import REFUSED, TextArenaGames
from rlscale.envs.games.text_game import TextGame
from rlscale.envs.reward import RewardFailed
from rlscale.envs.workers.object_process import ObjectProcess

needs_textarena = pytest.mark.usefixtures("extra_packages")
PROMPT = Prompt(0, "0", np.array([1], np.int32), "", {"problem": "counting", "seed": 4})


@pytest.fixture(scope="module")
def maker(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    sys.path.insert(0, str(Path(__file__).parent))  # processes search what this one does
    return {"_target_": "own_games.Counting", "marker": str(tmp_path_factory.mktemp("games") / "died")}


@pytest.fixture
def own_maker(maker: dict[str, Any], tmp_path: Path) -> dict[str, Any]:
    """Of processes that no other test has, for games that wait for each other: they do so on one event loop."""
    return {**maker, "marker": str(tmp_path / "died")}


def play(maker: dict[str, Any], *said: str, **more: Any) -> list[Step]:
    async def main() -> list[Step]:
        game = TextGame(maker, processes=1, **more)
        await game.reset(PROMPT, 7)
        return [await game.step(Action(text, text, [1])) for text in said]

    return asyncio.run(main())


def test_what_came_of_each_action_is_shown_until_the_game_gives_its_reward(maker: dict[str, Any]) -> None:
    first, second, third = play(maker, "<think>3?</think> 4", "so <answer> 5 </answer>", "6")
    assert list(first.messages) == [{"role": "user", "content": "yes"}]
    assert (first.done, second.done, third.done, third.reward) == (False, False, True, 1.0)
    (lost,) = play(maker, "5")
    assert (lost.done, lost.reward) == (True, 0.0)


def test_a_process_that_dies_once_is_asked_again_and_the_game_goes_on(maker: dict[str, Any]) -> None:
    one, two = play(maker, "die once", "5")
    assert (one.done, two.done, "game_error" in one.info) == (False, False, False)


@pytest.mark.parametrize(("said", "reason"), [("raise", "RuntimeError: confused"), ("die", "ended with code 3")])
def test_an_action_that_brings_the_game_down_twice_is_wrong(maker: dict[str, Any], said: str, reason: str) -> None:
    (step,) = play(maker, said, wrong=-1.0)
    assert (step.done, step.reward) == (True, -1.0)
    assert reason in step.info["game_error"]


def test_an_action_on_which_a_game_hangs_is_wrong_after_its_time_and_others_go_on(own_maker: dict[str, Any]) -> None:
    async def main() -> tuple[list[Step], float]:
        games = [TextGame(own_maker, processes=1, limit_s=0.4, wrong=-1.0) for _ in range(2)]
        for game in games:
            await game.reset(PROMPT, 7)
        await games[1].step(Action("4", "4", [1]))  # so that the process is there
        began = time.monotonic()
        steps = await asyncio.gather(*(g.step(Action(a, a, [1])) for g, a in zip(games, ("hang", "5"), strict=True)))
        return steps, time.monotonic() - began

    (hung, other), seconds = asyncio.run(main())
    assert (hung.done, hung.reward) == (True, -1.0)
    assert "took over 0.4 seconds" in hung.info["game_error"]
    assert (other.done, list(other.messages)) == (False, [{"role": "user", "content": "yes"}])
    assert seconds < 20  # not the half minute of the hang, nor twice the time of a start


def test_games_on_which_actions_take_long_do_not_queue_up_before_the_others(
    own_maker: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text_game, "_PATIENCE_S", 0.05)

    async def main() -> tuple[Step, list[Step]]:
        games = [TextGame(own_maker, processes=1, limit_s=60) for _ in range(3)]
        for game in games:
            await game.reset(PROMPT, 7)
        long = [asyncio.create_task(game.step(Action("wait", "wait", [1]))) for game in games[:2]]
        short = await asyncio.wait_for(games[2].step(Action("4", "4", [1])), 30)
        assert not any(task.done() for task in long)
        Path(own_maker["marker"]).with_suffix(".go").touch()
        return short, await asyncio.gather(*long)

    short, long = asyncio.run(main())
    assert (short.done, short.messages[0]["content"]) == (False, "yes")
    assert [(step.done, step.reward) for step in long] == [(True, 0.0)] * 2


def test_a_process_that_was_set_aside_is_used_again(own_maker: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_game, "_PATIENCE_S", 0.0)
    made: list[ObjectProcess] = []
    [table] = text_game._tables(json.dumps(own_maker, sort_keys=True), 1)
    played = text_game._played

    def long(process: ObjectProcess, *given: Any) -> tuple[str, float, bool]:
        deadline = time.monotonic() + 20
        while table._process is process and time.monotonic() < deadline:
            time.sleep(0.001)
        return played(process, *given)

    def process(*given: Any) -> ObjectProcess:
        made.append(ObjectProcess(*given))
        return made[-1]

    monkeypatch.setattr(text_game, "ObjectProcess", process)
    monkeypatch.setattr(text_game, "_played", long)
    steps = play(own_maker, *"4444444")
    assert {step.messages[0]["content"] for step in steps if not step.done} == {"yes"}
    assert len(made) == 1, "besides the first one"


def test_a_step_that_is_given_up_keeps_its_turn_until_the_game_is_done_and_the_next_holds_no_thread(
    own_maker: dict[str, Any],
) -> None:
    async def main() -> tuple[bool, Step]:
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(2))
        games = [TextGame(own_maker, processes=1, limit_s=1.5) for _ in range(2)]
        for game in games:
            await game.reset(PROMPT, 7)
        await games[1].step(Action("4", "4", [1]))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(games[0].step(Action("hang", "hang", [1])), 0.05)
        waiting = asyncio.create_task(games[1].step(Action("5", "5", [1])))
        await asyncio.sleep(0.05)
        thread = asyncio.create_task(asyncio.to_thread(int))
        free, _ = await asyncio.wait([thread], timeout=0.7)
        return bool(free), await waiting

    free, step = asyncio.run(main())
    assert free
    assert step.messages[0]["content"] == "yes"


def test_a_game_that_cannot_be_opened_is_a_failure_and_no_wrong_action(maker: dict[str, Any]) -> None:
    async def main() -> None:
        game = TextGame({**maker, "opens": False}, processes=1)
        await game.reset(PROMPT, 7)
        await game.step(Action("4", "4", [1]))

    with pytest.raises(RewardFailed, match="no board"):
        asyncio.run(main())


def test_what_cannot_be_played_is_refused_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"env\.maker is missing"):
        TextGame()
    with pytest.raises(ValueError, match="the prompt is not a game"):
        asyncio.run(TextGame({"_target_": "any"}).reset(Prompt(0, "0", np.array([1], np.int32), ""), 0))
    monkeypatch.setattr(text_arena_games, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'rlscale\[textarena\]'"):
        TextArenaGames()


@needs_textarena
def test_a_game_of_textarena_follows_from_its_name_its_seed_and_the_actions() -> None:
    games, others = TextArenaGames(), TextArenaGames()
    before = random.getstate()
    actions = ["[1 2 3 4]", "[2 1 3 4]", "[4 3 2 1]"]
    turns = [games.turn("Mastermind-v0", 3, actions[: number + 1]) for number in range(3)]
    assert others.turn("Mastermind-v0", 3, actions) == turns[-1]
    assert len({turn.said for turn in turns}) == 3
    assert random.getstate() == before
    assert games.make("Sudoku-v0", None, 2) == others.make("Sudoku-v0", None, 2) != games.make("Sudoku-v0", None, 3)
    # Brackets that the package's own wrapper would write; twice what is not allowed ends the game.
    assert games.turn("Mastermind-v0", 3, ["1 2 3 4"]) == turns[0]
    assert games.turn("Mastermind-v0", 3, ["zzz", "zzz"]).done


@needs_textarena
def test_games_of_several_players_and_those_that_ask_a_model_are_refused() -> None:
    games = TextArenaGames()
    with pytest.raises(ValueError, match="no game 'Chess-v0' for one player"):
        games.highest_levels(["Chess-v0"])
    for name in REFUSED:
        with pytest.raises(ValueError, match="a model elsewhere answers"):
            games.highest_levels([name])
    with pytest.raises(ValueError, match=r"later Python|needs data of NLTK"):
        games.make("Klondike-v0", None, 0)

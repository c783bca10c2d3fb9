"""The single-player games of TextArena, by name; for a process of their own, since they draw from global generators."""

from __future__ import annotations

import random
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from rlscale.config.errors import UserError
from rlscale.envs.problems.problem_maker import Problem, kept_random_state

REFUSED = {
    "GuessWho-v0": "a model elsewhere answers its questions",
    "TwentyQuestions-v0": "a model elsewhere answers its questions",
}
"""Games that cannot be played here, and why."""
_KEPT = 1024
"""Games that are kept between their turns; others are played again up to where they were."""


class Turn(NamedTuple):
    """What came of an action; picklable."""

    said: str
    """What the player is shown since the last turn."""
    reward: float
    """Of the whole game; 0 until it is over."""
    done: bool


class TextArenaGames:
    """A ProblemMaker whose problems are games: the prompt is what a game says at first, and env=text_game plays on.

    A game is its name and its seed, and where it stands follows from the actions so far. `options`: by the name of a
    game, arguments of its class.
    """

    def __init__(self, options: Mapping[str, Mapping[str, Any]] | None = None) -> None:
        """UserError if the package is not installed."""
        if find_spec("textarena") is None:
            raise UserError("TextArena is not installed: pip install 'rlscale[textarena]'")
        self._options = {name: dict(given) for name, given in (options or {}).items()}
        self._games: OrderedDict[tuple[str, int, tuple[str, ...]], _Game] = OrderedDict()

    def highest_levels(self, names: Sequence[str]) -> dict[str, int | None]:
        """The games, which have no levels; where `names` is empty, one of each kind that can be played here."""
        known = single_player_games()
        for name in (*names, *self._options):
            if name in REFUSED:
                raise ValueError(f"the game {name} of TextArena cannot be used: {REFUSED[name]}")
            if name not in known:
                raise ValueError(f"TextArena has no game {name!r} for one player")
        plain = {known[name]: name for name in sorted(known, key=len, reverse=True)}  # the shortest name of each class
        return dict.fromkeys(names or filter(self._opens, sorted(set(plain.values()) - set(REFUSED))))

    def make(self, name: str, level: int | None, seed: int) -> Problem:
        """What the game says at first; nobody stores an answer."""
        return Problem(self._opened(name, seed).begun, "")

    def score(self, name: str, level: int | None, seed: int, response: str) -> float:
        """The reward of a game of one turn."""
        return self.turn(name, seed, [response]).reward

    def turn(self, name: str, seed: int, actions: Sequence[str]) -> Turn:
        """What came of the last of a game's actions so far."""
        key = name, seed, tuple(actions[:-1])
        game = self._games.pop(key, None)
        if game is None:
            game = self._opened(name, seed)
            for action in actions[:-1]:
                game.play(action)
        turn = game.play(actions[-1])
        if not turn.done:
            self._games[name, seed, tuple(actions)] = game
            if len(self._games) > _KEPT:
                self._games.popitem(last=False)
        return turn

    def _opens(self, name: str) -> bool:
        try:
            self._opened(name, 0)
        except ValueError:
            return False
        return True

    def _opened(self, name: str, seed: int) -> _Game:
        """A game at its beginning. ValueError saying why it cannot be played here."""
        try:
            return _Game(name, seed, self._options.get(name, {}))
        except SyntaxError:
            raise ValueError(f"the game {name} of TextArena is written for a later Python") from None
        except LookupError as error:
            if "NLTK" not in str(error):
                raise
            wanted = str(error).partition("Resource")[2].split()[0].strip("'")
            raise ValueError(f"{name} needs data of NLTK: python -m nltk.downloader {wanted}") from None


class _Game:
    """One game, with the state of the global generators that it left."""

    def __init__(self, name: str, seed: int, options: Mapping[str, Any]) -> None:
        with kept_random_state(seed):
            import textarena

        wrappers = textarena.envs.registration.ENV_REGISTRY[name].default_wrappers or []
        self._bracketed = any(wrapper.__name__ == "ActionFormattingWrapper" for wrapper in wrappers)
        with kept_random_state(seed):
            self._env = textarena.make(f"{name}-raw", **options)
            self._env.reset(num_players=1, seed=seed)
            self._chance = random.getstate()
        self.begun = self._said()

    def play(self, action: str) -> Turn:
        """Act, as the package's own wrapper writes it: in brackets where there are none."""
        if self._bracketed and not ("[" in action and "]" in action):
            action = f"[{action}]"
        with kept_random_state(0):
            random.setstate(self._chance)
            done, _ = self._env.step(action=action)
            self._chance = random.getstate()
        said = self._said()
        if not done:
            return Turn(said, 0.0, False)
        rewards, _ = self._env.close()
        reward = (rewards or {}).get(0, 0.0)
        # Some games have their arguments in the wrong order where a move is not allowed, and give its reason.
        return Turn(said, float(reward) if isinstance(reward, (int, float)) else 0.0, True)

    def _said(self) -> str:
        """What is new to the player, its own actions left out."""
        from textarena import ObservationType

        _, seen = self._env.get_observation()
        said = [str(message) for _, message, kind in seen if kind is not ObservationType.PLAYER_ACTION]
        return "\n".join(message.strip() for message in said if message.strip())


def single_player_games() -> dict[str, str]:
    """The class of each game for one player, by the game's name, variants among them.

    Told from the source, since importing them all takes long, and some are written for a later Python.
    """
    with kept_random_state(0):
        import textarena

    package = Path(textarena.__file__).parent.parent
    found: dict[str, bool] = {}
    games = {}
    for name, spec in textarena.envs.registration.ENV_REGISTRY.items():
        if name.endswith(("-raw", "-train")) or not isinstance(spec.entry_point, str):
            continue
        module = spec.entry_point.partition(":")[0]
        if module not in found:
            file = package / f"{module.replace('.', '/')}.py"
            found[module] = file.is_file() and "SinglePlayerState" in file.read_text(encoding="utf-8")
        if found[module]:
            games[name] = str(spec.entry_point)
    return games

"""The data sets of reasoning-gym, by name, with the levels of their curricula."""

from __future__ import annotations

import ast
import sys
from collections.abc import Mapping, Sequence
from functools import lru_cache
from importlib.util import find_spec
from typing import Any

from rlscale.config.errors import UserError
from rlscale.envs.problems.harmless_answers import is_formula
from rlscale.envs.problems.problem_maker import Problem, kept_random_state

REFUSED = {
    "composite": "it is made of other data sets; name those",
    "game_of_life_halting": "it gives any answer the full score",
    "list_functions": "its problems do not follow from their seed",
}
"""Data sets that cannot be trained on, and why."""
SLOW = ("game_of_life", "jugs", "n_queens", "sokoban", "zebra_puzzles")
"""Data sets of whose problems some take half a minute or more: left out unless they are named."""

_LISTS = ("binary_matrix", "n_queens", "spiral_matrix", "string_insertion")
"""Data sets that pass an answer to `eval` where it is not the stored one: it may be a list."""
_FORMULAS = ("countdown", "intermediate_integration", "polynomial_multiplication", "puzzle24", "simple_integration")
"""Data sets that have SymPy compute an answer, which is `eval` too."""


class ReasoningGymProblems:
    """Problems of reasoning-gym. `options`: by the name of a data set, arguments of its configuration.

    Where none are named, it is all of them but those of `SLOW`. A data set whose own size bounds its items (`acre`,
    `gsm_symbolic`, `word_ladder`) has that many; raise it by the option `size`. Scores are those of the data set, which
    gives some answers a part; `exact` makes those 0.
    """

    def __init__(self, options: Mapping[str, Mapping[str, Any]] | None = None, exact: bool = False) -> None:
        """UserError if the package is not installed."""
        if find_spec("reasoning_gym") is None:
            raise UserError("reasoning-gym is not installed: pip install 'rlscale[reasoning_gym]'")
        self._options = {name: dict(given) for name, given in (options or {}).items()}
        self._exact = exact
        self._dataset = lru_cache(maxsize=256)(self._opened)
        self._made = lru_cache(maxsize=256)(self._entry)

    def highest_levels(self, names: Sequence[str]) -> dict[str, int | None]:
        """The highest level of any attribute of the curriculum, or the last below one that the data set refuses."""
        from reasoning_gym.factory import CURRICULA, DATASETS

        for name in (*names, *self._options):
            if name not in DATASETS:
                raise ValueError(f"reasoning-gym has no data set {name!r}")
            if name in REFUSED:
                raise ValueError(f"the data set {name} of reasoning-gym cannot be used: {REFUSED[name]}")
        chosen = names or sorted(set(DATASETS) - {*REFUSED, *SLOW})
        return {name: self._highest(name) if name in CURRICULA else None for name in chosen}

    def make(self, name: str, level: int | None, seed: int) -> Problem:
        """Problem number `seed` of the data set."""
        entry = self._made(name, level, seed)
        answer = entry["answer"]
        return Problem(entry["question"], "" if answer is None else str(answer))

    def score(self, name: str, level: int | None, seed: int, response: str) -> float:
        """The data set's own score of the answer; 0 where it raises, and for what is no answer but a program."""
        answer = answer_in(response)
        if name in _FORMULAS and not is_formula(answer):
            return 0.0
        if name == "complex_arithmetic" and "nan" in answer.lower():
            return 0.0  # the data set takes the distance to it for none
        try:
            with kept_random_state(seed):
                entry = self._made(name, level, seed)
                score = float(self._dataset(name, level).score_answer(answer, entry))
        except (ArithmeticError, AssertionError, AttributeError, LookupError, RecursionError, TypeError, ValueError):
            return 0.0
        return float(score >= 1) if self._exact else min(max(score, 0.0), 1.0)

    def _entry(self, name: str, level: int | None, seed: int) -> dict[str, Any]:
        dataset = self._dataset(name, level)
        with kept_random_state(seed):
            try:
                entry: dict[str, Any] = dataset[seed]
            except IndexError:
                entry = dataset[seed % (len(dataset) // 2 * 2)]  # what is even stays even: odd ones are held out
        return entry

    def _opened(self, name: str, level: int | None) -> Any:
        from reasoning_gym.factory import create_dataset

        with kept_random_state(0):
            options = self._own_options(name) if level is None else self._at_level(name, level)
            dataset = create_dataset(name, **options)
        if name in _LISTS:
            vars(sys.modules[type(dataset).__module__])["eval"] = ast.literal_eval
        return dataset

    def _own_options(self, name: str) -> dict[str, Any]:
        return {"seed": 0, **self._options.get(name, {})}

    def _at_level(self, name: str, level: int) -> dict[str, Any]:
        """All options at a level, those that were given as they were. AssertionError where the level has none."""
        from reasoning_gym.factory import create_curriculum

        curriculum = create_curriculum(name)
        curriculum.set_global_level(level)
        made = curriculum.generate_configuration(self._own_options(name))
        options = vars(made) | self._own_options(name)
        checked = type(made)(**options)
        if hasattr(checked, "validate"):
            checked.validate()
        return options

    def _highest(self, name: str) -> int | None:
        from reasoning_gym.factory import create_curriculum

        attributes = create_curriculum(name).attributes.values()
        top = max((len(attribute.levels) - 1 for attribute in attributes), default=0)
        for level in range(top + 1):
            try:
                self._at_level(name, level)
            except AssertionError:
                return level - 1 if level else None
        return top


def answer_in(response: str) -> str:
    """What stands in the last <answer> of a response, or all of it behind its thoughts."""
    text = response.rpartition("</think>")[2]
    _, found, inside = text.rpartition("<answer>")
    return (inside.partition("</answer>")[0] if found else text).strip()

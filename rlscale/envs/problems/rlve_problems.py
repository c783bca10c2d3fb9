"""The adaptive environments of RLVE (the package rlve-gym), by name, with the levels of their controllers."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from importlib.util import find_spec
from typing import Any

import torch

from rlscale.config.errors import UserError
from rlscale.envs.problems.harmless_answers import is_formula
from rlscale.envs.problems.problem_maker import Problem, kept_random_state
from rlscale.envs.problems.reasoning_gym_problems import answer_in

SLOW = ("FractionalProgramming_BipartiteGraphMatching", "PolynomialMinimum")
"""Environments that take long, or whose problems do not follow from their seed: left out unless they are named."""
_FORMULAS = ("Differentiate", "Integral")
"""Environments that have SymPy compute an answer, which is `eval`."""
_TRIES = 5
"""Seeds that are tried for a problem; some draws of some environments lead to none."""


class RlveProblems:
    """Problems of RLVE: 1 for a right answer, 0 for any other.

    Level n is that of the controller after n updates; its levels have no end, so `highest` is where ours stop.
    `limit_s`: seconds that making one problem may take.
    """

    def __init__(self, highest: int = 20, limit_s: int = 10) -> None:
        """UserError if the package is not installed."""
        if find_spec("Gym") is None:
            raise UserError("rlve-gym is not installed: pip install 'rlscale[rlve_gym]'")
        self._highest, self._limit_s = highest, limit_s
        self._made = lru_cache(maxsize=256)(self._environment)

    def highest_levels(self, names: Sequence[str]) -> dict[str, int | None]:
        """`highest` for each of them; all but those of `SLOW` where `names` is empty."""
        from Gym.environments import identifier2environment

        if wrong := next((name for name in names if name not in identifier2environment), None):
            raise ValueError(f"rlve-gym has no environment {wrong!r}")
        return dict.fromkeys(names or sorted(set(identifier2environment) - set(SLOW)), self._highest)

    def make(self, name: str, level: int | None, seed: int) -> Problem:
        """A problem of the environment, whose answer it asks for between <answer> and </answer>. ValueError where none
        comes of the seed and those after it."""
        made = self._made(name, level or 0, seed)
        asked = made.prompt_generator()
        prompt = f"{asked}\nWrite the answer between <answer> and </answer>."
        answer = made.parameter.get("reference_answer")
        return Problem(prompt, "" if answer is None else str(answer))

    def score(self, name: str, level: int | None, seed: int, response: str) -> float:
        """Whether the environment's verifier accepts the answer; one that makes it raise, or is a program, is wrong."""
        answer = answer_in(response)
        if name in _FORMULAS and not is_formula(answer):
            return 0.0
        with _kept_states(seed):
            made = self._made(name, level or 0, seed)
            return float(made.verifier(f"<answer>{answer}</answer>")["accuracy"])

    def _environment(self, name: str, level: int, seed: int) -> Any:
        from Gym.environments import identifier2environment
        from Gym.parameter_controllers import identifier2controller

        with _kept_states(seed):
            controller = identifier2controller[name]()
            for _ in range(level):
                controller.update()
            parameters = controller.get_parameter_list()
            made = identifier2environment[name]()
            chance = random.Random(seed)
            for attempt in range(_TRIES):
                # Seeds of different problems must not meet in their later tries.
                if made.generator(seed + attempt * 2**31 // _TRIES, chance.choice(parameters), self._limit_s):
                    return made
        raise ValueError(f"{name} of rlve-gym makes no problem at level {level} from seed {seed}")


@contextmanager
def _kept_states(seed: int) -> Iterator[None]:
    """The generators of Python and NumPy as they were, and torch's too, which RLVE reseeds."""
    before = torch.get_rng_state()
    try:
        with kept_random_state(seed):
            yield
    finally:
        torch.set_rng_state(before)

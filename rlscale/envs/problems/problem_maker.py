"""What makes problems and judges answers to them: a package of environments behind three methods."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple, Protocol

import numpy as np


class Problem(NamedTuple):
    """One problem; picklable."""

    prompt: str
    answer: str
    """The stored answer; empty where the package stores none."""


def digest_of(problem: Problem) -> str:
    """What tells the problem from every other one, in 16 characters: whether the one that is judged was asked."""
    return hashlib.blake2b(repr((problem.prompt, problem.answer)).encode(), digest_size=8).hexdigest()


class ProblemMaker(Protocol):
    """Makes problems of several kinds. A problem is its name, level and seed: nothing else decides what it is.

    Building one must not import the package, which is done in the processes where problems are made and judged.
    """

    def highest_levels(self, names: Sequence[str]) -> dict[str, int | None]:
        """By name, the highest level of each kind, all of them where `names` is empty; None where it has no levels.

        ValueError for a name that there is not, or that cannot be used, with the reason.
        """
        ...

    def make(self, name: str, level: int | None, seed: int) -> Problem:
        """A problem; with None for the level as difficult as the package makes it by default."""
        ...

    def score(self, name: str, level: int | None, seed: int, response: str) -> float:
        """What a response to the problem is worth, from 0 to 1; whatever it says, nothing is raised for it."""
        ...


@contextmanager
def kept_random_state(seed: int) -> Iterator[None]:
    """Seed the global generators of Python and NumPy, which some packages draw from, and restore them behind it."""
    python, numpy = random.getstate(), np.random.get_state()
    random.seed(seed)
    np.random.seed(seed % 2**32)
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)

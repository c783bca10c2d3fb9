"""Tokens per second of rlscale's trainer beside a plain Hugging Face model of the same size.

The two sides take turns, step by step, so that what else the machine does hits both; the median of the steps counts.
Tokens are those of the rows, padding is not counted.
"""

from __future__ import annotations

import multiprocessing
import os
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

from token_rows import TokenRows
from trainer_sides import Seconds, serve_hugging_face, serve_rlscale

from rlscale.platform.environment import rank_environment
from rlscale.trainer.spec import TrainerSpec

_DEADLINE_S = 120.0
"""Longest that a start or a step may take."""


_WARM_UP = 3
"""Steps of a new shape that are not measured: the first ones take memory from the system, page by page."""


@dataclass(frozen=True)
class Shape:
    """How many rows of which lengths."""

    name: str
    rows: int
    shortest: int
    longest: int


SHAPES = (
    Shape("ragged, 512 rows of 8-14 tokens", 512, 8, 14),
    Shape("ragged, 64 rows of 16-240 tokens", 64, 16, 240),
    Shape("equal, 64 rows of 128 tokens", 64, 128, 128),
)


@dataclass(frozen=True)
class Speed:
    """Tokens per second of both sides on one shape."""

    shape: str
    tokens: int
    rlscale: float
    hugging_face: float
    cpu_ratio: float
    """The ratio if time is the computing time of each process: other processes on the cores change it little."""

    @property
    def ratio(self) -> float:
        """rlscale over Hugging Face: above 1, rlscale is faster."""
        return self.rlscale / self.hugging_face


class _Side:
    """A process that trains when told to."""

    def __init__(
        self, serve: Callable[[Connection, TrainerSpec], None], spec: TrainerSpec, environment: dict[str, str]
    ) -> None:
        """`environment`: variables that it is started with besides those of this process."""
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=serve, args=(theirs, spec), daemon=True)
        before = dict(os.environ)
        os.environ.update(environment)
        try:
            self._process.start()
        finally:
            os.environ.clear()
            os.environ.update(before)
        theirs.close()

    def answer(self) -> Any:
        """What the process says next. TimeoutError if it says nothing, EOFError if it died."""
        if not self._pipe.poll(_DEADLINE_S):
            raise TimeoutError(f"a training process did not answer within {_DEADLINE_S:.0f} s")
        return self._pipe.recv()

    def step(self, rows: TokenRows) -> Seconds:
        """What one step on these rows took."""
        self._pipe.send(rows)
        seconds: Seconds = self.answer()
        return seconds

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.join()


def measure_trainer(spec: TrainerSpec, vocabulary: int, repeats: int) -> list[Speed]:
    """Both sides on every shape: steps to warm up, then the median of `repeats`."""
    sides: list[_Side] = []
    try:
        environment = rank_environment(spec.device, threads=1)
        for serve in (serve_rlscale, serve_hugging_face):
            sides.append(_Side(serve, spec, environment))
        for side in sides:
            side.answer()
        return [_measure(shape, sides, vocabulary, repeats) for shape in SHAPES]
    finally:
        for side in sides:
            side.close()


def _measure(shape: Shape, sides: list[_Side], vocabulary: int, repeats: int) -> Speed:
    rows = TokenRows.random(shape.rows, shape.shortest, shape.longest, vocabulary)
    for _ in range(_WARM_UP):
        for side in sides:
            side.step(rows)
    turns = [[side.step(rows) for side in sides] for _ in range(repeats)]
    (ours, ours_cpu), (plain, plain_cpu) = (_medians([turn[number] for turn in turns]) for number in range(2))
    tokens = len(rows.tokens)
    return Speed(shape.name, tokens, tokens / ours, tokens / plain, cpu_ratio=plain_cpu / ours_cpu)


def _medians(steps: list[Seconds]) -> tuple[float, float]:
    return statistics.median(step.wall for step in steps), statistics.median(step.cpu for step in steps)

"""Tokens per second of rlscale's trainer beside a plain Hugging Face model of the same size.

The plain model is measured in two processes: one started like any other, and one with the environment of a rank (how
memory is allocated), which is part of what rlscale does for speed. All sides take turns, step by step, so that what
else the machine does hits all; the median of the steps counts. Tokens are those of the rows, padding is not counted.
"""

from __future__ import annotations

import multiprocessing
import os
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from token_rows import TokenRows
from trainer_sides import Seconds, serve_hugging_face, serve_rlscale

from rlscale.platform.process_environment import rank_environment
from rlscale.trainer.trainer_spec import TrainerSpec

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
    """Steps of all sides on one shape."""

    shape: str
    tokens: int
    rlscale: Seconds
    plain: Seconds
    """transformers in an ordinary process."""
    plain_as_rank: Seconds
    """transformers in a process with a rank's environment."""

    @property
    def ratio(self) -> float:
        """Tokens per second of rlscale over those of the faster plain side: above 1, rlscale is faster."""
        return min(self.plain.wall, self.plain_as_rank.wall) / self.rlscale.wall

    @property
    def cpu_ratio(self) -> float:
        """The ratio if time is computing time of each process: other processes on the cores change it little."""
        return min(self.plain.cpu, self.plain_as_rank.cpu) / self.rlscale.cpu


class Side:
    """A process that trains when told to, or by itself."""

    def __init__(self, serve: Callable[..., None], given: Sequence[Any], environment: Mapping[str, str]) -> None:
        """`serve` is called with the process's end of a pipe and `given`.

        `environment`: variables that it is started with besides those of this process.
        """
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=serve, args=(theirs, *given), daemon=True)
        before = dict(os.environ)
        os.environ.update(environment)
        try:
            self._process.start()
        finally:
            os.environ.clear()
            os.environ.update(before)
        theirs.close()

    def answer(self, within_s: float = _DEADLINE_S) -> Any:
        """What the process says next. TimeoutError if it says nothing, EOFError if it died."""
        if not self._pipe.poll(within_s):
            raise TimeoutError(f"a training process did not answer within {within_s:.0f} s")
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
    """All sides on every shape: steps to warm up, then the median of `repeats`."""
    sides: list[Side] = []
    try:
        rank = rank_environment(spec.device, threads=1)
        for serve, environment in (
            (serve_rlscale, rank),
            (serve_hugging_face, {"OMP_NUM_THREADS": "1"}),
            (serve_hugging_face, rank),
        ):
            sides.append(Side(serve, (spec,), environment))
        for side in sides:
            side.answer()
        return [_measure(shape, sides, vocabulary, repeats) for shape in SHAPES]
    finally:
        for side in sides:
            side.close()


def _measure(shape: Shape, sides: list[Side], vocabulary: int, repeats: int) -> Speed:
    rows = TokenRows.random(shape.rows, shape.shortest, shape.longest, vocabulary)
    for _ in range(_WARM_UP):
        for side in sides:
            side.step(rows)
    turns = [[side.step(rows) for side in sides] for _ in range(repeats)]
    rlscale, plain, plain_as_rank = (_median(steps) for steps in zip(*turns, strict=True))
    return Speed(shape.name, len(rows.tokens), rlscale, plain, plain_as_rank)


def _median(steps: Sequence[Seconds]) -> Seconds:
    return Seconds(statistics.median(step.wall for step in steps), statistics.median(step.cpu for step in steps))

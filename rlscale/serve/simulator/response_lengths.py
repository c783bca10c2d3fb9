"""How long responses are: a distribution, drawn by prompt and seed."""

from __future__ import annotations

import math
from functools import lru_cache
from pathlib import Path
from statistics import NormalDist

from rlscale.config.errors import UserError
from rlscale.config.schema.simulator_config import LengthLaw, LengthsConfig
from rlscale.serve.simulator.token_stream import uniform

_NORMAL = NormalDist()
_QUANTILES = 4000
"""Points at which the mean is measured."""


class ResponseLengths:
    """The lengths of a configuration. The same prompt and seed always give the same one."""

    def __init__(self, config: LengthsConfig, seed: int) -> None:
        """UserError if the file of measured lengths cannot be used."""
        self._config, self._seed = config, seed
        self._between, self._within = math.sqrt(config.prompt_share), math.sqrt(1.0 - config.prompt_share)
        self._measured = _read(config.path) if config.law is LengthLaw.measured else []
        self._means: dict[int, float] = {}

    def draw(self, prompt: int, seed: int) -> int:
        """Tokens of the response to a prompt (any number that stands for it) under a request's seed."""
        shared = _deviation(3, self._seed, prompt)
        own = _NORMAL.inv_cdf(uniform(4, self._seed, seed))
        return self._at(self._between * shared + self._within * own)

    def mean(self, longest: int) -> float:
        """Mean length where responses are cut at `longest` tokens."""
        if longest not in self._means:
            points = (self._at(_NORMAL.inv_cdf((i + 0.5) / _QUANTILES)) for i in range(_QUANTILES))
            self._means[longest] = sum(min(length, longest) for length in points) / _QUANTILES
        return self._means[longest]

    def _at(self, deviation: float) -> int:
        """The length that lies so many standard deviations from the middle."""
        config = self._config
        match config.law:
            case LengthLaw.log_normal:
                length = config.median * min(math.exp(config.sigma * deviation), config.cap)
            case LengthLaw.uniform:
                length = 2.0 * config.median * _NORMAL.cdf(deviation)
            case LengthLaw.constant:
                length = config.median
            case LengthLaw.measured:
                length = self._measured[min(int(_NORMAL.cdf(deviation) * len(self._measured)), len(self._measured) - 1)]
        return max(1, round(length))


@lru_cache(maxsize=1 << 16)
def _deviation(*numbers: int) -> float:
    """A normal deviate of some whole numbers; the samples of a prompt have it in common."""
    return _NORMAL.inv_cdf(uniform(*numbers))


def _read(path: str | None) -> list[int]:
    if path is None:
        raise UserError("lengths.law=measured needs lengths.path, a file with one length per line")
    try:
        lines = Path(path).read_text().split()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"lengths.path={path} cannot be read ({error})") from error
    for number, line in enumerate(lines, 1):
        if not line.isdigit() or int(line) < 1:
            raise UserError(f"lengths.path={path}: entry {number} is {line!r}, which is not a length of at least 1")
    if not lines:
        raise UserError(f"lengths.path={path} holds no length")
    return sorted(int(line) for line in lines)

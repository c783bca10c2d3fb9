"""Sums and products of two numbers, made by a seeded generator, some to train on and the others held out.

47+38 and 38+47 are the same problem, so they always fall on the same side: what is held out was never seen either way.
The division is by the two numbers alone: the products held out are of the pairs whose sums are.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from rlscale.config.errors import UserError
from rlscale.config.schema.data_config import ArithmeticData, Operation
from rlscale.data.prompts.overlap import PromptText, plain_text
from rlscale.data.prompts.sources import RawPrompt, Stream

_MOST = 3000
"""Largest `max_number`: all pairs are listed in memory."""


_SIGNS = {Operation.add: "+", Operation.multiply: "*"}


class ArithmeticSource(Stream):
    """Prompts like `47+38=` (or `47*38=`), label `85`, or `58` with `reverse_answer`."""

    uniform = True

    def __init__(self, config: ArithmeticData, key: str = "data") -> None:
        _check(config, key)
        self._reverse, self._operation = config.reverse_answer, config.operation
        self._sign = _SIGNS[config.operation]
        self._pairs = problems(config)
        if not len(self._pairs):
            raise UserError(
                f"{key}: no problem is left in the split {config.split!r}; change {key}.held_out_share="
                f"{config.held_out_share} or raise {key}.max_number={config.max_number}"
            )
        kind = b"" if config.operation is Operation.add else config.operation.value.encode()
        content = hashlib.blake2b(self._pairs.tobytes() + kind, digest_size=16).hexdigest()
        super().__init__(len(self._pairs), config.shuffle, config.seed, content)

    def item(self, number: int, index: int) -> RawPrompt:
        """The sum of pair `number`."""
        a, b = (int(value) for value in self._pairs[number])
        value, name = (a + b, "sum") if self._operation is Operation.add else (a * b, "product")
        label = str(value)[::-1] if self._reverse else str(value)
        problem = f"{a}{self._sign}{b}"
        return RawPrompt(index=index, id=problem, prompt=f"{problem}=", label=label, info={name: value})

    def holds(self, prompts: Sequence[PromptText]) -> int:
        """How many of these prompts are among its own."""
        problem = re.compile(rf"(\d{{1,9}}){re.escape(self._sign)}(\d{{1,9}})=")
        asked = [match for prompt in prompts if (match := problem.fullmatch(plain_text(prompt) or ""))]
        pairs = np.array([[int(match[1]), int(match[2])] for match in asked], np.int64).reshape(-1, 2)
        pairs = pairs[(pairs < _MOST).all(axis=1)]
        numbers, own = (of[:, 0] * _MOST + of[:, 1] for of in (pairs, self._pairs))
        return int(np.isin(numbers, own).sum())


def problems(config: ArithmeticData) -> NDArray[np.int64]:
    """The pairs of the split, int64 [size, 2] in a fixed order: all of them, or `size` drawn by `data.seed`."""
    a, b = np.divmod(np.arange(config.max_number**2, dtype=np.uint64), np.uint64(config.max_number))
    chosen = held_out(a, b, config.held_out_share, config.split_seed) == (config.split == "held_out")
    pairs = np.stack([a, b], axis=1).astype(np.int64)[chosen]
    if config.size is not None and config.size < len(pairs):
        pairs = pairs[np.sort(np.random.default_rng(config.seed).permutation(len(pairs))[: config.size])]
    return pairs


def held_out(
    a: NDArray[np.uint64], b: NDArray[np.uint64], share: float = 0.1, split_seed: int = 0
) -> NDArray[np.bool_]:
    """Which pairs of numbers, whose larger one is below 3000, are held out; the order of the two does not count."""
    number = np.minimum(a, b) * np.uint64(_MOST) + np.maximum(a, b)
    return _uniform(number, split_seed) < share


def _uniform(values: NDArray[np.uint64], seed: int) -> NDArray[np.float64]:
    """A number in [0, 1) per value, the same on every machine: the finaliser of SplitMix64 (Steele et al. 2014)."""
    with np.errstate(over="ignore"):
        x = values + np.uint64(seed % 2**63 + 1) * np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        x = x ^ (x >> np.uint64(31))
    return (x >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _check(config: ArithmeticData, key: str) -> None:
    if config.split not in ("train", "held_out"):
        raise UserError(f"{key}.split={config.split}: choose train or held_out")
    if not 1 <= config.max_number <= _MOST:
        raise UserError(f"{key}.max_number={config.max_number}: choose from 1 to {_MOST}")
    if not 0 <= config.held_out_share <= 1:
        raise UserError(f"{key}.held_out_share={config.held_out_share}: choose from 0 to 1")
    if config.size is not None and config.size < 1:
        raise UserError(f"{key}.size={config.size}: choose at least 1, or null for all problems")

"""What the tokens of stored samples were trained with: advantages and the trainer's log-probs, a file per iteration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rlscale.config.own_files import replaced

_FORMAT = 1
SUFFIX = ".trained.npz"


@dataclass(frozen=True)
class TrainedTokens:
    """Of the tokens of one sample or of several, one sample behind the other, those of the prompts included."""

    advantages: NDArray[np.float32]
    """[T], 0 where the token is not trained on."""
    logprobs: NDArray[np.float32] | None
    """[T] by the trainer before the iteration's first step; None where it made no pass for them."""

    def at(self, places: slice | NDArray[np.int64]) -> TrainedTokens:
        """Those of some tokens."""
        return TrainedTokens(self.advantages[places], None if self.logprobs is None else self.logprobs[places])


def write_trained(path: Path, lengths: Sequence[int], tokens: TrainedTokens) -> None:
    """Write the tokens of samples of these lengths. A reader sees the whole file or none. OSError from the disk."""
    offsets = np.concatenate([[0], np.cumsum(np.asarray(lengths, np.int64))])
    own = {} if tokens.logprobs is None else {"logprobs": tokens.logprobs.astype(np.float32)}
    advantages = tokens.advantages.astype(np.float32)
    with replaced(path) as file:
        np.savez(file, allow_pickle=False, format=np.int64(_FORMAT), offsets=offsets, advantages=advantages, **own)


def read_trained(path: Path, lengths: Mapping[int, int]) -> dict[int, TrainedTokens]:
    """The tokens of samples by their places in the file, of which `lengths` says how many tokens each has.

    Without those that the file has not, or with other lengths; none where there is no such file or it is damaged.
    """
    try:
        with np.load(path, allow_pickle=False) as columns:
            if int(columns["format"]) != _FORMAT:
                return {}
            offsets, advantages, logprobs = columns["offsets"], columns["advantages"], columns.get("logprobs")
    except Exception:  # for damaged files NumPy, zipfile and their decompressors raise a dozen kinds
        return {}
    shapes = {advantages.shape, advantages.shape if logprobs is None else logprobs.shape}
    whole = offsets.ndim == 1 and len(offsets) and offsets.dtype.kind == "i" and shapes == {(int(offsets[-1]),)}
    if not whole or offsets[0] or (np.diff(offsets) < 0).any():
        return {}
    tokens, places = TrainedTokens(advantages, logprobs), dict(enumerate(pairwise(offsets.tolist())))
    there = {row: slice(*places[row]) for row in lengths if row in places}
    return {row: tokens.at(place) for row, place in there.items() if place.stop - place.start == lengths[row]}

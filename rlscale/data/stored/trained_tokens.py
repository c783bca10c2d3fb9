"""What the tokens of stored samples were trained with: advantages and the trainer's log-probs, a file per iteration."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

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
    partial = path.with_name(f".{path.name}.partial")
    with partial.open("wb") as file:
        np.savez(file, allow_pickle=False, format=np.int64(_FORMAT), offsets=offsets, advantages=advantages, **own)
    os.replace(partial, path)


def read_trained(path: Path, row: int) -> TrainedTokens | None:
    """The tokens of the sample at a place of the file; None where there is no such file or place, or it is damaged."""
    try:
        with np.load(path, allow_pickle=False) as columns:
            if int(columns["format"]) != _FORMAT:
                return None
            offsets, advantages, logprobs = columns["offsets"], columns["advantages"], columns.get("logprobs")
    except Exception:  # for damaged files NumPy, zipfile and their decompressors raise a dozen kinds
        return None
    lengths = {advantages.shape, advantages.shape if logprobs is None else logprobs.shape}
    whole = offsets.ndim == 1 and len(offsets) and offsets.dtype.kind == "i" and lengths == {(int(offsets[-1]),)}
    if not whole or offsets[0] or (np.diff(offsets) < 0).any() or not 0 <= row < len(offsets) - 1:
        return None
    return TrainedTokens(advantages, logprobs).at(slice(offsets[row], offsets[row + 1]))

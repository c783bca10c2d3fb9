"""The likeliest words where each token of an answer was drawn, as SGLang lists them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlscale.data.batches.fields import SAMPLER_LOGPROBS, SAMPLER_WORDS, SUPPORT


def sampler_words_of(
    meta: Mapping[str, Any], tokens: NDArray[np.int32], most: int, support: NDArray[np.int32] | None = None
) -> dict[str, NDArray[Any]]:
    """For an answer's tokens [m] the columns of the `most` likeliest words, int32, and their log-probs, float32.

    Shapes: [m, most] each. `support` [m, any]: the words that were left to draw from, where some were left out. Then
    only those of the likeliest are named that are among them, and log-probs are of the softmax over them. ValueError
    where the answer does not tell.
    """
    listed = meta.get("output_top_logprobs")
    if not isinstance(listed, list) or len(listed) < len(tokens) or not all(listed[: len(tokens)]):
        told = len([row for row in listed if row]) if isinstance(listed, list) else 0
        raise ValueError(f"the answer lists those of {told} of {len(tokens)} tokens")
    rows = listed[: len(tokens)]
    if {len(row) for row in rows} != {most}:
        raise ValueError(f"the answer lists {min(map(len, rows))} and not {most} of a token")
    logprobs = np.array([[entry[0] for entry in row] for row in rows], np.float32)
    words = np.array([[entry[1] for entry in row] for row in rows], np.int32)
    if not np.isfinite(logprobs).all():
        raise ValueError("log-probs in the answer's lists are not finite")
    if support is not None:
        words, logprobs = _among(support, words, logprobs, _left(meta, len(tokens)))
    return {SAMPLER_WORDS.name: words, SAMPLER_LOGPROBS.name: logprobs}


def _left(meta: Mapping[str, Any], count: int) -> NDArray[np.float32]:
    """log of the probability of all words that were left, [m]: by how much the token's own log-prob rose."""
    of_all = np.array([entry[0] for entry in meta["output_token_logprobs"][:count]], np.float32)
    return of_all - np.array(meta["output_token_sampling_logprobs"][:count], np.float32)


def _among(
    support: NDArray[np.int32], words: NDArray[np.int32], logprobs: NDArray[np.float32], left: NDArray[np.float32]
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """The words that are in the support of their token, with log-probs among it."""
    limited = (support != SUPPORT.fill).any(1)
    # Row by row: all pairs at once would be as large as the support times the words.
    kept = np.stack([np.isin(row, own) for row, own in zip(words, support, strict=True)]) | ~limited[:, None]
    shifted = logprobs - np.where(limited, left, 0.0)[:, None].astype(np.float32)
    return np.where(kept, words, SAMPLER_WORDS.fill), np.where(kept, shifted, np.float32(SAMPLER_LOGPROBS.fill))

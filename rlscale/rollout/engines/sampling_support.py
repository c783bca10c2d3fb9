"""The words that each token of an answer was drawn from, as SGLang names them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlscale.data.batches.fields import SUPPORT

SAMPLING_MASK = "output_token_sampling_mask"
"""Key of the words in `meta_info`."""


def support_of(meta: Mapping[str, Any], tokens: NDArray[np.int32]) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """For an answer's tokens [m]: the words that each was drawn from, int32 [m, most], filled up with -1, and its
    log-prob among them, float32 [m]; from `meta_info`. ValueError where the answer does not tell, or what cannot be.
    """
    named, logprobs = meta.get(SAMPLING_MASK), meta.get("output_token_sampling_logprobs")
    if not isinstance(named, list) or not isinstance(logprobs, list):
        raise ValueError("the answer does not name them; the engine must be started by rlscale, to do so")
    if len(named) != len(tokens) or len(logprobs) != len(tokens) or None in named or None in logprobs:
        raise ValueError(f"the answer names those of {len(named)} of {len(tokens)} tokens")
    widths = np.array([len(words) for words in named], np.int64)
    support = np.full((len(tokens), max(widths, default=1)), SUPPORT.fill, np.int32)
    support[np.arange(support.shape[1]) < widths[:, None]] = [word for words in named for word in words]
    if not (support == tokens[:, None]).any(1).all():
        raise ValueError("the answer names words that a token is not among")
    return support, np.array(logprobs, np.float32)

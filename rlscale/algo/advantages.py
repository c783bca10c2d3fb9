"""From one score per sample to one advantage per trainable token."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def broadcast(
    scores: NDArray[np.float64],
    sample: NDArray[np.int64],
    lengths: NDArray[np.int64],
    mask: NDArray[np.bool_],
) -> NDArray[np.float64]:
    """Give every trainable token its sample's score: A_t = m_t * score_i.

    Shapes: scores [n], sample [rows] (index into scores of each segment), lengths [rows] (tokens of each segment),
    mask [T] with T = sum of lengths -> [T] float64. Source: GRPO, DeepSeekMath (arXiv 2402.03300), section 4.1.2.
    """
    per_token = np.repeat(np.asarray(scores, dtype=np.float64)[sample], lengths)
    if per_token.shape != mask.shape:
        raise ValueError(f"lengths add up to {per_token.shape[0]} tokens but the mask has {mask.shape[0]}")
    return np.where(mask, per_token, 0.0)

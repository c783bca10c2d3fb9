"""Sums over segments on one process, as `rlscale.algo.losses.SegmentSum`."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from rlscale.algo.losses import SegmentSum
from tests.unit.algo.ragged import Ragged


def sum_over(segment: list[int] | NDArray[np.int64]) -> SegmentSum:
    """The sum over the tokens that have the same segment number; segment [T]."""
    index = torch.as_tensor(np.asarray(segment, dtype=np.int64))
    segments = int(index.max()) + 1 if len(index) else 0

    def segment_sum(x: torch.Tensor) -> torch.Tensor:
        return x.new_zeros(segments).index_add(0, index, x)[index]

    return segment_sum


def sum_over_rows(data: Ragged) -> SegmentSum:
    """The sum over each row of a ragged step."""
    return sum_over(data.row_of_token)

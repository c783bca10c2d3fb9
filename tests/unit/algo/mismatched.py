"""Log-probs of a trainer and an engine that disagree."""

from __future__ import annotations

import numpy as np
import torch

from rlscale.algo.corrections import log_ratio
from tests.unit.algo.ragged import Ragged, ragged


def logs(*ratios: float) -> torch.Tensor:
    return torch.tensor(ratios, dtype=torch.float64).log()


def mask_of(*values: int) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.bool)


def noisy(seed: int) -> tuple[Ragged, torch.Tensor, torch.Tensor]:
    """Ragged input whose rollout log-probs are far off: (input, log ratio, mask)."""
    data = ragged(seed)
    data.rollout = data.old + np.random.default_rng(seed).normal(size=len(data.mask))
    mask = torch.from_numpy(data.mask)
    return data, log_ratio(torch.from_numpy(data.old), torch.from_numpy(data.rollout), mask), mask


def tokens_of_rows(data: Ragged) -> list[list[int]]:
    """The tokens of each row that are in the mask."""
    return [
        [t for t in range(data.offsets[row], data.offsets[row + 1]) if data.mask[t]] for row in range(len(data.lengths))
    ]

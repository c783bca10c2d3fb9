"""The token rows that both sides of the trainer's benchmark train on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class TokenRows:
    """Rows of random token ids, one behind the other."""

    tokens: NDArray[np.int64]
    """Token ids of all rows."""
    offsets: NDArray[np.int64]
    """Where each row starts in `tokens`, and where the last one ends: [rows + 1]."""

    @classmethod
    def random(cls, rows: int, shortest: int, longest: int, vocabulary: int) -> TokenRows:
        """Rows of lengths drawn evenly from shortest..longest, always the same for the same arguments."""
        draw = np.random.default_rng(0)
        lengths = draw.integers(shortest, longest + 1, rows)
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        return cls(draw.integers(0, vocabulary, int(offsets[-1])), offsets)

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of each row."""
        return np.diff(self.offsets)


def grpo_batch(rows: TokenRows, trained: NDArray[np.bool_], spec: Any, longest: int) -> Any:
    """The rows as samples in groups of 8 with random rewards, prepared for the ranks: a `Batch`.

    `trained`: of each token, whether it is; `longest`: tokens that a response may have.
    """
    # Not at the top: the other side of the trainer's benchmark has these rows without rlscale.
    from rlscale.data.batches.batch import Batch
    from rlscale.trainer.preparation import prepare

    draw = np.random.default_rng(1)
    batch, count = Batch(rows.offsets), len(rows.lengths)
    columns = {
        "tokens": rows.tokens,
        "loss_mask": trained,
        "rollout_logprobs": np.where(trained, -3.0, 0.0),
        "versions": np.where(trained, 0, -1),
        "step": np.zeros(count, np.int64),
        "reward": draw.random(count),
        "group": np.arange(count) // 8,
        "sample": np.arange(count),
    }
    for name, values in columns.items():
        batch = batch.with_column(name, values)
    return prepare(batch, spec.algo, max_response_tokens=longest)[0]

"""The trainable tokens of each sample, in order over all its segments, laid out for scans from the last to the first.

A prompt, tool or observation token is not an action: it is not part of a trajectory and is never read here.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Trajectories:
    """Where the trainable tokens of each sample are. T tokens in all, N of them trainable, S samples that have some.

    The packed order: first the last trainable token of every sample, then the last but one of those that have two, and
    so on. Samples are ranked from the longest to the shortest, so that those that reach a place are the first ones.
    """

    size: int
    """T, tokens of any kind."""
    tokens: NDArray[np.int64]
    """[N] position in [T] of each trainable token, in packed order."""
    active: NDArray[np.int64]
    """[places] number of samples that reach each place, counted from the end; never grows. Its sum is N."""
    samples: NDArray[np.int64]
    """[S] number of each sample, from the longest to the shortest."""

    @classmethod
    def of(cls, sample: NDArray[np.int64], lengths: NDArray[np.int64], mask: NDArray[np.bool_]) -> Trajectories:
        """Order the trainable tokens of every sample.

        Shapes: sample [R] (number of the sample of each segment), lengths [R] (tokens of each segment), mask [T] with
        T = sum of lengths. Segments of one sample follow each other in the order of the rows, adjacent or not.
        Raises ValueError when the lengths do not add up to the mask.
        """
        sample, lengths = np.asarray(sample, dtype=np.int64), np.asarray(lengths, dtype=np.int64)
        mask = np.asarray(mask, dtype=bool)
        if sample.shape != lengths.shape:
            raise ValueError(f"sample {sample.shape} and lengths {lengths.shape} must both be [rows]")
        if int(lengths.sum()) != mask.shape[0]:
            raise ValueError(f"lengths add up to {int(lengths.sum())} tokens but the mask has {mask.shape[0]}")
        tokens = _in_order_of_samples(sample, lengths, mask)
        # Trainable tokens of each row, then of each sample; samples without any are left out.
        before = np.concatenate([[0], np.cumsum(mask)])
        ends = np.cumsum(lengths)
        numbers, sample_of_row = np.unique(sample, return_inverse=True)
        counts = np.zeros(numbers.shape[0], dtype=np.int64)
        np.add.at(counts, sample_of_row.reshape(-1), before[ends] - before[ends - lengths])
        numbers, counts = numbers[counts > 0], counts[counts > 0]

        longest_first = np.argsort(-counts, kind="stable")
        rank = np.empty_like(longest_first)
        rank[longest_first] = np.arange(longest_first.shape[0])
        # A sample of n tokens reaches places 0 .. n-1: those that reach place p are all but those of at most p tokens.
        of_length = np.bincount(counts)
        active = (counts.shape[0] - np.cumsum(of_length))[:-1]
        first = np.concatenate([[0], np.cumsum(active)])
        from_end = np.repeat(np.cumsum(counts), counts) - 1 - np.arange(tokens.shape[0])
        packed = np.empty_like(tokens)
        packed[first[from_end] + np.repeat(rank, counts)] = tokens
        return cls(mask.shape[0], packed, active, numbers[longest_first])

    @property
    def last(self) -> NDArray[np.int64]:
        """[S] position in [T] of the last trainable token of each of `samples`."""
        return self.tokens[: self.samples.shape[0]]

    def sample_of_tokens(self) -> NDArray[np.int64]:
        """[N] number of the sample of each trainable token, in packed order."""
        begins = np.cumsum(self.active) - self.active
        return self.samples[np.arange(self.tokens.shape[0]) - np.repeat(begins, self.active)]

    def pack(self, per_token: NDArray[np.floating]) -> NDArray[np.float64]:
        """The trainable tokens' values in packed order: [T] -> [N] float64. Raises ValueError for another shape."""
        if per_token.shape != (self.size,):
            raise ValueError(f"expected one number for each of {self.size} tokens, got shape {per_token.shape}")
        return per_token[self.tokens].astype(np.float64)

    def unpack(self, packed: NDArray[np.float64]) -> NDArray[np.float64]:
        """Back to the order of the tokens: [N] -> [T], exactly 0 where a token is not trainable."""
        per_token = np.zeros(self.size, dtype=np.float64)
        per_token[self.tokens] = packed
        return per_token

    def following(self, packed: NDArray[np.float64]) -> NDArray[np.float64]:
        """What the sample's next trainable token has, 0 after its last one: [N] -> [N], both packed."""
        following = np.zeros_like(packed)
        ended = self.samples.shape[0]
        source = np.arange(ended, packed.shape[0]) - np.repeat(self.active[:-1], self.active[1:])
        following[ended:] = packed[source]
        return following

    def discounted_sums(
        self, packed: NDArray[np.float64], discount: float | NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """y_t = x_t + discount_t * y_{t+1} along each trajectory, y = 0 after its end: [N] -> [N], both packed.

        `discount`: one number, or one for each token, packed [N].
        """
        sums = packed.copy()
        each = np.broadcast_to(discount, sums.shape)
        start = 0
        for before, active in zip(self.active[:-1].tolist(), self.active[1:].tolist(), strict=True):
            here = start + before
            sums[here : here + active] += each[here : here + active] * sums[start : start + active]
            start = here
        return sums


def _in_order_of_samples(
    sample: NDArray[np.int64], lengths: NDArray[np.int64], mask: NDArray[np.bool_]
) -> NDArray[np.int64]:
    """Positions of the trainable tokens [N], sample after sample, rows of one sample in their order."""
    rows = np.argsort(sample, kind="stable")
    moved = lengths[rows]
    # Position of a row in the batch less its position among the sorted rows, for each of its tokens.
    shift = (np.cumsum(lengths) - lengths)[rows] - (np.cumsum(moved) - moved)
    tokens = np.arange(mask.shape[0], dtype=np.int64) + np.repeat(shift, moved)
    return tokens[mask[tokens]]
